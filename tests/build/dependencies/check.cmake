cmake_minimum_required(VERSION 3.23)
# What find_package(hydralora) makes of the packages that a machine may have: each case is a folder of fake ones.
include(CMakePackageConfigHelpers)
include(${CMAKE_CURRENT_LIST_DIR}/../run.cmake)

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/hydralora)

# package(<folder> <name> <version> <target> <properties…>): a package file that makes one target.
function(package folder name version target)
  file(WRITE ${WORK_DIR}/${folder}/lib/cmake/${name}/${name}Config.cmake
       "add_library(${target} INTERFACE IMPORTED)\nset_target_properties(${target} PROPERTIES ${ARGN})\n")
  write_basic_package_version_file(${WORK_DIR}/${folder}/lib/cmake/${name}/${name}ConfigVersion.cmake
                                   VERSION ${version} COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
endfunction()
# headers(<folder> <major> <minor>): xsimd without a package file.
function(headers folder major minor)
  file(WRITE ${WORK_DIR}/${folder}/include/xsimd/xsimd.hpp "")
  file(WRITE ${WORK_DIR}/${folder}/include/xsimd/config/xsimd_config.hpp
       "#define XSIMD_VERSION_MAJOR ${major}\n#define XSIMD_VERSION_MINOR ${minor}\n#define XSIMD_VERSION_PATCH 0\n")
endfunction()
package(eigen_5 Eigen3 5.0.0 Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES /eigen_5)
package(eigen_3_4 Eigen3 3.4.0 Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES /eigen_3_4)
package(eigen_3_3 Eigen3 3.3.9 Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES /eigen_3_3)
headers(xsimd_14 14 0)
headers(xsimd_8_1 8 1)
headers(xsimd_8_0 8 0)
package(xsimd_named xsimd 14.0.0 xsimd::xsimd INTERFACE_INCLUDE_DIRECTORIES /named)
package(xsimd_plain xsimd 8.1.0 xsimd INTERFACE_INCLUDE_DIRECTORIES /plain INTERFACE_LINK_LIBRARIES xtl)
package(xsimd_plain_8_0 xsimd 8.0.5 xsimd INTERFACE_INCLUDE_DIRECTORIES /plain)

# expect(<what is printed> <packages…>), with further arguments after OPTIONS.
function(expect regex)
  cmake_parse_arguments(PARSE_ARGV 1 case "" "" OPTIONS)
  list(TRANSFORM case_UNPARSED_ARGUMENTS PREPEND ${WORK_DIR}/ OUTPUT_VARIABLE prefixes)
  file(REMOVE_RECURSE ${WORK_DIR}/build)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_FUNCTION_LIST_DIR} -B ${WORK_DIR}/build "-DCMAKE_PREFIX_PATH=${WORK_DIR}/hydralora;${prefixes}"
                          ${case_OPTIONS}
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(NOT result EQUAL 0 OR NOT output MATCHES "${regex}")
    message(SEND_ERROR "${case_UNPARSED_ARGUMENTS} ${case_OPTIONS}: expected '${regex}' from a configuration that goes on:\n${output}")
  endif()
endfunction()
expect("links links-NOTFOUND, includes ${WORK_DIR}/xsimd_14/include" eigen_5 xsimd_14)
expect("links links-NOTFOUND, includes ${WORK_DIR}/xsimd_8_1/include" eigen_3_4 xsimd_8_1)
expect("hydralora needs Eigen 3.4 or newer, found 3.3.9" eigen_3_3 xsimd_14)
expect("hydralora needs Eigen 3.4 or newer .Debian: libeigen3-dev" xsimd_14)
expect("hydralora needs xsimd 8.1 or newer, found 8.0.0" eigen_5 xsimd_8_0)
expect("hydralora needs xsimd 8.1 or newer .Debian: libxsimd-dev" eigen_5)
expect("links xsimd::xsimd, includes folders-NOTFOUND" eigen_5 xsimd_named)
expect("links links-NOTFOUND, includes /plain" eigen_5 xsimd_plain)
expect("hydralora needs xsimd 8.1 or newer, found 8.0.5" eigen_5 xsimd_plain_8_0)
expect("links links-NOTFOUND, includes /host" eigen_5 xsimd_named OPTIONS -DHOST_XSIMD=/host)
