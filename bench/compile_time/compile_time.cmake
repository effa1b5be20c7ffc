# What it costs to compile every public header by itself, and the program that the budget is for.
add_executable(measure_compile_time compile_time/measure.cpp)
target_compile_features(measure_compile_time PRIVATE cxx_std_17)
target_link_libraries(measure_compile_time PRIVATE nlohmann_json::nlohmann_json)

set(compile_time_folder ${CMAKE_CURRENT_BINARY_DIR}/compile_time)
set(compile_time_json ${CMAKE_CURRENT_BINARY_DIR}/compile_time.json)
set(compile_time_flags -std=c++17 -O2)

file(WRITE ${compile_time_folder}/empty.cpp "#include <Eigen/Core>\n")
set(sources "one HydraLoRA forward and backward=${CMAKE_CURRENT_SOURCE_DIR}/compile_time/forward_backward.cpp"
            "Eigen/Core=${compile_time_folder}/empty.cpp")
file(GLOB_RECURSE public_headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include
     ${PROJECT_SOURCE_DIR}/include/hydralora/*.hpp)
foreach(header IN LISTS public_headers)
  string(MAKE_C_IDENTIFIER ${header} source)
  file(WRITE ${compile_time_folder}/${source}.cpp "#include <${header}>\n")
  list(APPEND sources "${header}=${compile_time_folder}/${source}.cpp")
endforeach()

set(include_flags -I${PROJECT_SOURCE_DIR}/include)
foreach(library Eigen3::Eigen hydralora::xsimd)
  get_target_property(folders ${library} INTERFACE_INCLUDE_DIRECTORIES)
  foreach(folder IN LISTS folders)
    if(NOT folder MATCHES "NOTFOUND|^/usr/include/?$")
      list(APPEND include_flags -isystem ${folder})
    endif()
  endforeach()
endforeach()

list(TRANSFORM public_headers PREPEND ${PROJECT_SOURCE_DIR}/include/ OUTPUT_VARIABLE header_files)
add_custom_command(OUTPUT ${compile_time_json}
  COMMAND measure_compile_time ${compile_time_json} ${compile_time_folder} ${sources}
          -- ${CMAKE_CXX_COMPILER} ${compile_time_flags} ${include_flags}
  DEPENDS measure_compile_time ${header_files} ${CMAKE_CURRENT_SOURCE_DIR}/compile_time/forward_backward.cpp
  USES_TERMINAL VERBATIM COMMENT "Compiling every public header by itself")
add_custom_target(compile_time DEPENDS ${compile_time_json})
