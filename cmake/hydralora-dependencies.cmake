# Eigen and xsimd, for the build and, installed beside the package file, for consumers. What is missing is said in
# hydralora_NOT_FOUND_MESSAGE: it ends our own build, and a consumer's only where find_package says REQUIRED.
unset(hydralora_NOT_FOUND_MESSAGE)

# Unversioned, then compared: `find_package(Eigen3 3.4)` refuses Eigen 5, and the range 3.4...<6 refuses Debian's 3.4.0.
# Targets that the host has made already are used as they are; the headers ask for both versions once more.
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 QUIET NO_MODULE)
endif()
if(NOT TARGET Eigen3::Eigen)
  set(hydralora_NOT_FOUND_MESSAGE "hydralora needs Eigen 3.4 or newer (Debian: libeigen3-dev)")
  return()
elseif(Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
  set(hydralora_NOT_FOUND_MESSAGE "hydralora needs Eigen 3.4 or newer, found ${Eigen3_VERSION}")
  return()
endif()

# xsimd's own target is `xsimd`, in a host's tree and installed. Only its include folder is wanted: Debian's names a library that
# is not there (-lxtl). Some packages call it xsimd::xsimd, and some have the headers alone.
if(NOT TARGET hydralora::xsimd)
  if(NOT TARGET xsimd::xsimd AND NOT TARGET xsimd)
    find_package(xsimd QUIET NO_MODULE)
  endif()
  if(NOT TARGET xsimd::xsimd AND NOT TARGET xsimd)
    find_path(HYDRALORA_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Folder that holds xsimd/xsimd.hpp")
    mark_as_advanced(HYDRALORA_XSIMD_INCLUDE_DIR)
    if(NOT HYDRALORA_XSIMD_INCLUDE_DIR)
      set(hydralora_NOT_FOUND_MESSAGE "hydralora needs xsimd 8.1 or newer (Debian: libxsimd-dev)")
      return()
    endif()
    file(STRINGS ${HYDRALORA_XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp xsimd_VERSION
         REGEX "#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    string(REGEX REPLACE "#define XSIMD_VERSION_[A-Z]+ ([0-9]+)" "\\1" xsimd_VERSION "${xsimd_VERSION}")
    list(JOIN xsimd_VERSION "." xsimd_VERSION)
  endif()
  if(xsimd_VERSION AND xsimd_VERSION VERSION_LESS 8.1)
    set(hydralora_NOT_FOUND_MESSAGE "hydralora needs xsimd 8.1 or newer, found ${xsimd_VERSION}")
    return()
  endif()

  add_library(hydralora::xsimd INTERFACE IMPORTED)
  if(TARGET xsimd::xsimd)
    set_property(TARGET hydralora::xsimd PROPERTY INTERFACE_LINK_LIBRARIES xsimd::xsimd)
  elseif(TARGET xsimd)
    get_target_property(hydralora_xsimd_folders xsimd INTERFACE_INCLUDE_DIRECTORIES)
    set_property(TARGET hydralora::xsimd PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${hydralora_xsimd_folders})
  else()
    set_property(TARGET hydralora::xsimd PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${HYDRALORA_XSIMD_INCLUDE_DIR})
  endif()
endif()
