# What the adapters are compared with: Eigen always, and every library found here.
#
# OpenBLAS, oneDNN and BLIS are opened at run time (products_blas.cpp says why), so only their paths are taken.

function(hydralora_bench_library variable peer package)
  find_library(${variable} ${ARGN})
  mark_as_advanced(${variable})
  if(${variable})
    message(STATUS "peer ${peer}: found ${${variable}}")
    file(REAL_PATH ${${variable}} path)
    target_compile_definitions(bench_peers PRIVATE ${variable}="${path}")
  else()
    message(STATUS "peer ${peer}: not found (Debian: ${package})")
    target_compile_definitions(bench_peers PRIVATE ${variable}="")
  endif()
endfunction()

add_library(bench_peers STATIC peers.cpp composed.cpp products_eigen.cpp products_blas.cpp peers_torch_door.cpp
                               problem.cpp)
target_include_directories(bench_peers PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(bench_peers PUBLIC hydralora_native ${CMAKE_DL_LIBS})

hydralora_bench_library(BENCH_OPENBLAS openblas libopenblas-openmp-dev NAMES openblas PATH_SUFFIXES openblas-openmp)
hydralora_bench_library(BENCH_ONEDNN onednn libdnnl-dev NAMES dnnl)
hydralora_bench_library(BENCH_BLIS blis libblis-openmp-dev NAMES blis PATH_SUFFIXES blis-openmp)

# g++ 12 schedules Eigen's kernels badly for -march=native on Zen; tuned for Haswell they run up to 1.4 times faster.
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
string(STRIP "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}}" eigen_flags)
if(HYDRALORA_NATIVE)
  string(APPEND eigen_flags " -march=native")
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_property(SOURCE products_eigen.cpp APPEND PROPERTY COMPILE_OPTIONS -mtune=haswell)
    string(APPEND eigen_flags " -mtune=haswell")
  endif()
endif()
set_property(SOURCE products_eigen.cpp APPEND PROPERTY COMPILE_DEFINITIONS
             "BENCH_EIGEN_FLAGS=\"${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${eigen_flags}\"")

include(${PROJECT_SOURCE_DIR}/cmake/hydralora-torch.cmake)
if(TARGET hydralora_torch)
  message(STATUS "peers torch_released, torch_smart: found ${HYDRALORA_TORCH}")
  add_library(bench_peers_torch MODULE peers_torch.cpp)
  target_link_libraries(bench_peers_torch PRIVATE hydralora_native hydralora_torch)
  target_compile_definitions(bench_peers PRIVATE BENCH_TORCH_MODULE="$<TARGET_FILE:bench_peers_torch>")
  add_dependencies(bench_peers bench_peers_torch)
else()
  message(STATUS "peers torch_released, torch_smart: not found (Debian: libtorch-dev)")
endif()

add_executable(bench_peers_test peers_test.cpp)
target_link_libraries(bench_peers_test PRIVATE bench_peers)
if(HYDRALORA_BUILD_TESTS)
  add_test(NAME bench_peers_test COMMAND bench_peers_test)
  # Alone, because the threads of BLIS spin at its barriers: a core taken away costs a time slice at each of them.
  set_tests_properties(bench_peers_test PROPERTIES RUN_SERIAL TRUE)
  # LeakSanitizer itself crashes over what these libraries leave behind.
  set_tests_properties(bench_peers_test PROPERTIES ENVIRONMENT "OMP_WAIT_POLICY=passive;LSAN_OPTIONS=detect_leaks=0")
endif()
