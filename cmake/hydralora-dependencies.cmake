# Eigen and xsimd, for the build and, installed beside the package file, for consumers.

# Unversioned, then compared: `find_package(Eigen3 3.4)` refuses Eigen 5, and the range 3.4...<6 refuses Debian's 3.4.0.
find_package(Eigen3 QUIET NO_MODULE)
if(NOT TARGET Eigen3::Eigen)
  message(FATAL_ERROR "hydralora needs Eigen 3.4 or newer (Debian: libeigen3-dev)")
elseif(Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
  message(FATAL_ERROR "hydralora needs Eigen 3.4 or newer, found ${Eigen3_VERSION}")
endif()

# Only xsimd's headers are wanted, and Debian's target `xsimd` names a library that is not there (-lxtl): a target of our own.
if(NOT TARGET hydralora::xsimd)
  add_library(hydralora::xsimd INTERFACE IMPORTED)
  if(TARGET xsimd::xsimd)
    set_property(TARGET hydralora::xsimd PROPERTY INTERFACE_LINK_LIBRARIES xsimd::xsimd)
  else()
    find_path(HYDRALORA_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Folder that holds xsimd/xsimd.hpp")
    mark_as_advanced(HYDRALORA_XSIMD_INCLUDE_DIR)
    if(NOT HYDRALORA_XSIMD_INCLUDE_DIR)
      message(FATAL_ERROR "hydralora needs xsimd 8.1 or newer (Debian: libxsimd-dev)")
    endif()
    file(STRINGS ${HYDRALORA_XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp hydralora_xsimd_version
         REGEX "#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    string(REGEX REPLACE "#define XSIMD_VERSION_[A-Z]+ ([0-9]+)" "\\1" hydralora_xsimd_version "${hydralora_xsimd_version}")
    list(JOIN hydralora_xsimd_version "." hydralora_xsimd_version)
    if(hydralora_xsimd_version VERSION_LESS 8.1)
      message(FATAL_ERROR "hydralora needs xsimd 8.1 or newer, found ${hydralora_xsimd_version}")
    endif()
    set_property(TARGET hydralora::xsimd PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${HYDRALORA_XSIMD_INCLUDE_DIR})
  endif()
endif()
