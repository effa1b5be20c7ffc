# Settings of this project's own tests, examples and benchmarks; none of it reaches a consumer.

option(HYDRALORA_NATIVE "Build our own programs for this machine's instruction set" OFF)
option(HYDRALORA_OPENMP "Build our own programs with OpenMP, where found" ON)

if(HYDRALORA_OPENMP)
  find_package(OpenMP QUIET COMPONENTS CXX)
  if(NOT OpenMP_CXX_FOUND)
    message(STATUS "OpenMP not found: our own programs run on one thread")
  endif()
endif()

add_library(hydralora_own INTERFACE)
target_link_libraries(hydralora_own INTERFACE hydralora::hydralora)
target_compile_options(hydralora_own INTERFACE -Wall -Wextra -Wconversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593) once Eigen's products are inlined.
  target_compile_options(hydralora_own INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
if(TARGET OpenMP::OpenMP_CXX)
  target_link_libraries(hydralora_own INTERFACE OpenMP::OpenMP_CXX)
endif()

# The instruction set is kept apart, so that tests can be built for several.
add_library(hydralora_native INTERFACE)
target_link_libraries(hydralora_native INTERFACE hydralora_own)
if(HYDRALORA_NATIVE)
  target_compile_options(hydralora_native INTERFACE -march=native)
endif()
