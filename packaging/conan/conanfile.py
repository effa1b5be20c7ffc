# UNTESTED: Conan could not be had where this was written. For Conan 2 (../README.md).
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load


class Hydralora(ConanFile):
    name = "hydralora"
    description = "Header-only low-rank adapters (LoRA, SplitLoRA, HydraLoRA) for C++"
    license = "MIT"
    package_type = "header-library"
    implements = ["auto_header_only"]
    settings = "os", "arch", "compiler", "build_type"
    options = {"io": [True, False]}  # what the headers in hydralora/io need
    default_options = {"io": False}
    no_copy_source = True

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, os.pardir, os.pardir)

    def set_version(self):  # the version has one home
        text = load(self, os.path.join(self._root, "include", "hydralora", "version.hpp"))
        self.version = ".".join(re.findall(r"#define HYDRALORA_VERSION_\w+ (\d+)", text))

    def export_sources(self):
        copy(self, "include/*", src=self._root, dst=self.export_sources_folder)
        copy(self, "LICENSE", src=self._root, dst=self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/[>=3.4 <6]", transitive_headers=True)
        self.requires("xsimd/[>=8.1]", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/[>=3.11 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 17)

    def package(self):
        copy(self, "include/*", src=self.source_folder, dst=self.package_folder)
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
