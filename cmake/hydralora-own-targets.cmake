# Settings of this project's tests, examples and benchmarks. None of it reaches a consumer.
option(HYDRALORA_NATIVE "Build the project's programs for this machine's instruction set" OFF)
option(HYDRALORA_OPENMP "Build the project's programs with OpenMP, where found" ON)
option(HYDRALORA_TEST_MATRIX "Also test what takes minutes: compilers, standards, policies, large hosts" OFF)

find_package(Python3 QUIET COMPONENTS Interpreter)
if(Python3_FOUND)  # the interpreter itself: a wrapper such as pyenv's takes longer to start than most scripts to run
  execute_process(COMMAND ${Python3_EXECUTABLE} -c "import sys; print(sys.executable, end='')"
                  OUTPUT_VARIABLE Python3_EXECUTABLE)
endif()
add_library(hydralora_own INTERFACE)
target_link_libraries(hydralora_own INTERFACE hydralora::hydralora)
target_compile_options(hydralora_own INTERFACE -Wall -Wextra -Wconversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # g++ 12 sees uninitialised variables in its AVX-512 intrinsics (GCC bug 105593) once Eigen's products are inlined.
  target_compile_options(hydralora_own INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
  string(APPEND CMAKE_CXX_FLAGS " --param=ggc-min-heapsize=2000000")  # collecting garbage costs 10 % and more
endif()
if(HYDRALORA_OPENMP)
  find_package(OpenMP QUIET COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(hydralora_own INTERFACE OpenMP::OpenMP_CXX)
  else()
    message(STATUS "OpenMP not found: the project's programs run on one thread")
  endif()
endif()

# The instruction set is a target of its own, so that tests can be built for several.
add_library(hydralora_native INTERFACE)
target_link_libraries(hydralora_native INTERFACE hydralora_own)
target_compile_options(hydralora_native INTERFACE $<$<BOOL:${HYDRALORA_NATIVE}>:-march=native>)

# g++ 12 schedules Eigen's kernels badly for -march=native on Zen; tuned for Haswell they run a quarter faster.
add_library(hydralora_tuned INTERFACE)
target_link_libraries(hydralora_tuned INTERFACE hydralora_native)
if(HYDRALORA_NATIVE AND CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(hydralora_tuned INTERFACE -mtune=haswell)
endif()
find_library(HYDRALORA_DNNL dnnl)
find_path(HYDRALORA_DNNL_INCLUDE oneapi/dnnl/dnnl.hpp)
if(HYDRALORA_DNNL AND HYDRALORA_DNNL_INCLUDE)
  add_library(hydralora_onednn INTERFACE)
  target_link_libraries(hydralora_onednn INTERFACE ${HYDRALORA_DNNL})
  target_compile_definitions(hydralora_onednn INTERFACE HYDRALORA_ONEDNN)
else()
  message(STATUS "oneDNN not found: no --engine onednn, and interop/onednn.hpp is not tested (Debian: libdnnl-dev)")
endif()

# For programs whose speed does not matter: without optimisation, and with the kernels compiled once for all of them.
file(CONFIGURE OUTPUT instantiate.cpp CONTENT "#include <hydralora/instantiate.hpp>\n")
add_library(hydralora_unoptimized STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/instantiate.cpp)
target_link_libraries(hydralora_unoptimized PUBLIC hydralora_own)
target_compile_options(hydralora_unoptimized PUBLIC -O0)
target_compile_definitions(hydralora_unoptimized PUBLIC HYDRALORA_EXTERN_TEMPLATES)

include(${CMAKE_CURRENT_LIST_DIR}/hydralora-torch.cmake)
