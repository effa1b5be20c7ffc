# UNTESTED: there was no vcpkg where this was written. An overlay port (../README.md) that installs this clone.
cmake_path(SET SOURCE_PATH NORMALIZE "${CURRENT_PORT_DIR}/../..")
set(VCPKG_BUILD_TYPE release)  # headers: the debug half would be the same

vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        -DHYDRALORA_BUILD_TESTS=OFF
        -DHYDRALORA_BUILD_EXAMPLES=OFF
        -DHYDRALORA_BUILD_BENCHMARKS=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/hydralora)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
