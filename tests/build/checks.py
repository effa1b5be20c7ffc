#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks of the headers and the packages. usage: checks.py FUNCTION ARGUMENTS..., of those below."""
import ast
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
# A header includes its own level and those before it.
LEVELS = ["core", "kernels", "layers", "train", "analysis", "io", "lm", "interop"]
failures = []


def expect(good, *message):
    if not good:
        failures.append(" ".join(str(part) for part in message))


def rules():
    """Includes point down; #if and #pragma omp are in one place each; umbrellas include only headers of ours; macros
    min and max do no harm."""
    count = 0
    for path in INCLUDE.rglob("*.hpp"):
        name = str(path.relative_to(INCLUDE / "hydralora"))
        text = path.read_text()
        if "Moved to " in text and "namespace" not in text:  # it only forwards to where the header has moved
            continue
        level = LEVELS.index(name.split("/")[0]) if "/" in name else None
        for line in text.splitlines():
            directive = re.sub(r"^\s*#\s*", "#", line)
            included = re.match(r'#include [<"]hydralora/(\w+)/', directive)
            if included and level is not None:
                count += 1
                expect(LEVELS.index(included[1]) <= level, f"{name} includes upwards: {line}")
            if directive.startswith("#pragma omp"):
                expect(name == "core/parallel.hpp", f"{name}: {line} belongs into core/parallel.hpp")
            if re.match(r"#(if|ifdef|ifndef|elif)\b", directive) and not re.match("#if !?HYDRALORA_HAS_", directive):
                expect(name == "core/config.hpp", f"{name}: {line} belongs into core/config.hpp")
            code = re.sub(r'//.*|"[^"]*"', "", line)  # windows.h has macros of these names
            expect(not re.search(r"\b(min|max)\s*\(", code), f"{name}: {line} needs brackets, (std::min)(a, b)")
            if directive.startswith("#include") and level is None:
                expect("hydralora/" in line, f"{name} is an umbrella and includes {line}")
    expect(count >= 20, f"only {count} includes were checked: is the folder right?")


def includes():
    """A header includes, maybe through others, the header of every type of ours that it names."""
    code, included, home = {}, {}, {}
    for path in INCLUDE.rglob("*.hpp"):
        name, text = str(path.relative_to(INCLUDE)), path.read_text()
        included[name] = re.findall('#include "(.*)"', text)
        code[name] = re.sub(r'//.*|"[^"\n]*"', "", text)
        definition = r"^(?:class|struct|enum class|using) ([A-Z]\w+)(?= *[:{=]| final)"
        for type_name in re.findall(definition, code[name], re.M):
            home.setdefault(type_name, set()).add(name)
    for name in code:
        reached, new = set(), [name]
        while new:
            reached |= set(new)
            new = [other for header in new for other in included.get(header, []) if other not in reached]
        for type_name in set(re.findall(r"(?<![.:\w])[A-Z]\w+", code[name])) & home.keys():
            local = re.search(rf"(class|struct|using|typename|class\.\.\.) {type_name}\b", code[name])  # declared here
            expect(local or home[type_name] & reached, f"{name} uses {type_name} without including {home[type_name]}")
    expect(len(home) >= 40, f"only {len(home)} types were found")


def headers(scratch, compiler, *flags):
    """Every header compiles alone and twice. Those of interop/ need their hosts: tests/interop compiles them."""
    scratch = pathlib.Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    command = [compiler, *flags, "-I", str(INCLUDE), "-fsyntax-only"]
    found = subprocess.run([*command, "-x", "c++", "-"], input="#include <nlohmann/json_fwd.hpp>", text=True,
                           stderr=subprocess.DEVNULL)
    skipped = {"interop"} if found.returncode == 0 else {"interop", "io"}
    names = sorted(str(path.relative_to(INCLUDE)) for path in INCLUDE.rglob("*.hpp"))
    names = [name for name in names if name.split("/")[1] not in skipped]
    for name in names:
        (scratch / "header.cpp").write_text(f"#include <{name}>\n" * 2)
        expect(subprocess.run([*command, "header.cpp"], cwd=scratch).returncode == 0, f"{name} fails alone")
    expect(len(names) >= 30, f"only {len(names)} headers were checked")


def refused(compiler, *flags):
    """compile_fail.cpp gives the compiler's messages that it says, each as often, no other failed assertion. Versions
    of Eigen and xsimd that are too old are refused without any build system."""
    here = ROOT / "tests" / "build"
    command = [compiler, *flags, str(here / "compile_fail.cpp")]
    output = subprocess.run([*command, "-fsyntax-only"], stderr=subprocess.PIPE, text=True).stderr
    assertions = [line for line in output.splitlines() if "error: static" in line and "failed" in line]
    expected = collections.Counter(re.findall("// error: (.*)", (here / "compile_fail.cpp").read_text()))
    for message, count in expected.items():
        found = sum(message in line for line in assertions)
        expect(found == count, f"'{message}': {found} times, expected {count}")
    expect(len(assertions) == sum(expected.values()) >= 7, output)
    command = [compiler, f"-I{here / 'old_versions'}", *flags, "-fsyntax-only", "-x", "c++", "-"]
    header = "#include <hydralora/core/simd.hpp>"
    output = subprocess.run(command, input=header, stderr=subprocess.PIPE, text=True).stderr
    for message in "hydralora needs Eigen 3.4 or newer", "hydralora needs xsimd 8.1 or newer":
        expect(message in output, f"an old version is accepted: no '{message}'")


def packaging(version):
    """The recipes in packaging/, without their tools: they parse, and the files and options that they name exist."""
    folder = ROOT / "packaging"
    manifest = json.loads((folder / "vcpkg" / "vcpkg.json").read_text())
    expect(manifest["version"] == version, f"vcpkg.json says {manifest['version']}, version.hpp {version}")
    ast.parse((folder / "conan" / "conanfile.py").read_text())
    portfile = (folder / "vcpkg" / "portfile.cmake").read_text()
    for start, base in ("${CURRENT_PORT_DIR}", folder / "vcpkg"), ("${SOURCE_PATH}", ROOT):
        paths = re.findall(re.escape(start) + r"(/?\.?[./\w]+)", portfile)
        expect(paths, f"portfile.cmake names no file after {start}")
        for path in paths:
            expect(os.path.exists(f"{base}/{path}"), f"portfile.cmake: {base}/{path} does not exist")
    options = re.findall(r"-D(\w+)=", portfile)
    for option in options:
        expect(f"option({option} " in (ROOT / "CMakeLists.txt").read_text(), f"{option} is no option of the project")
    expect(options, "the port sets no options")


HOST = """cmake_minimum_required(VERSION 3.23)
project(host LANGUAGES NONE)
foreach(place CMAKE_SYSTEM_PATH SYSTEM_ENVIRONMENT_PATH CMAKE_ENVIRONMENT_PATH PACKAGE_REGISTRY)
  set(CMAKE_FIND_USE_${place} OFF)
endforeach()
if(HOST_XSIMD)
  add_library(xsimd INTERFACE)
  target_include_directories(xsimd INTERFACE /host)
endif()
find_package(hydralora)
if(hydralora_FOUND)
  get_target_property(links hydralora::xsimd INTERFACE_LINK_LIBRARIES)
  get_target_property(folders hydralora::xsimd INTERFACE_INCLUDE_DIRECTORIES)
  message(STATUS "xsimd links ${links}, includes ${folders}")
endif()
"""
MACROS = "#define XSIMD_VERSION_MAJOR {}\n#define XSIMD_VERSION_MINOR {}\n#define XSIMD_VERSION_PATCH 0\n"


def dependencies(installed, scratch):
    """What find_package(hydralora) makes of the packages that a machine may have: a case finds the fake ones named in
    it and no others. A host that can do without hydralora goes on in all of them."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch = pathlib.Path(scratch)

    def write(file, text):
        (scratch / file).parent.mkdir(parents=True, exist_ok=True)
        (scratch / file).write_text(text)

    def package(folder, name, version, target, include, links=""):
        start = f"{folder}/lib/cmake/{name}/{name}Config"
        write(start + "Version.cmake", f"set(PACKAGE_VERSION {version})\n")
        write(start + ".cmake", f"add_library({target} INTERFACE IMPORTED)\nset_target_properties({target} PROPERTIES "
                                f'INTERFACE_INCLUDE_DIRECTORIES {include} INTERFACE_LINK_LIBRARIES "{links}")\n')

    def case(expected, *packages, options=()):
        prefixes = ";".join([installed, *(str(scratch / folder) for folder in packages)])
        command = ["cmake", "--fresh", "-S", scratch, f"-B{scratch}/build", *options, f"-DCMAKE_PREFIX_PATH={prefixes}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        good = done.returncode == 0 and expected in " ".join(done.stdout.split())
        expect(good, f"{packages}: no '{expected}' in\n{done.stdout}")

    write("CMakeLists.txt", HOST)
    for version in "5.0.0", "3.4.0", "3.3.9":
        package(f"eigen_{version}", "Eigen3", version, "Eigen3::Eigen", "/eigen")
    package("named", "xsimd", "14.0.0", "xsimd::xsimd", "/named")
    package("plain", "xsimd", "8.1.0", "xsimd", "/plain", "xtl")
    package("plain_8.0", "xsimd", "8.0.5", "xsimd", "/plain")
    for major, minor in (14, 0), (8, 1), (8, 0):
        write(f"headers_{major}.{minor}/include/xsimd/xsimd.hpp", "")
        write(f"headers_{major}.{minor}/include/xsimd/config/xsimd_config.hpp", MACROS.format(major, minor))
    case(f"links links-NOTFOUND, includes {scratch}/headers_14.0/include", "eigen_5.0.0", "headers_14.0")
    case(f"links links-NOTFOUND, includes {scratch}/headers_8.1/include", "eigen_3.4.0", "headers_8.1")
    case("hydralora needs Eigen 3.4 or newer, found 3.3.9", "eigen_3.3.9", "headers_14.0")
    case("hydralora needs Eigen 3.4 or newer (Debian: libeigen3-dev)", "headers_14.0")
    case("hydralora needs xsimd 8.1 or newer, found 8.0.0", "eigen_5.0.0", "headers_8.0")
    case("hydralora needs xsimd 8.1 or newer (Debian: libxsimd-dev)", "eigen_5.0.0")
    case("links xsimd::xsimd, includes folders-NOTFOUND", "eigen_5.0.0", "named")
    case("links links-NOTFOUND, includes /plain", "eigen_5.0.0", "plain")
    case("hydralora needs xsimd 8.1 or newer, found 8.0.5", "eigen_5.0.0", "plain_8.0")
    case("links links-NOTFOUND, includes /host", "eigen_5.0.0", "named", options=["-DHOST_XSIMD=ON"])


USES = ROOT / "tests" / "build" / "uses.cpp"


def compiles(compiler, *flags):
    """uses.cpp goes through a compiler that need not be the project's."""
    if not shutil.which(compiler):
        print(f"no {compiler} here")
        sys.exit(77)
    good = subprocess.run([compiler, *flags, "-fsyntax-only", USES]).returncode == 0
    expect(good, f"{compiler} {' '.join(flags)} fails")


def matrix(scratch, compiler, *flags):
    """uses.cpp with several standards and policies, run without exceptions and on libc++; every header alone."""
    arm = compiler.startswith("aarch64")
    for variant in [], ["-std=c++20"], ["-DHYDRALORA_NO_XSIMD"], ["-fno-exceptions", "-fno-rtti"]:
        compiles(compiler, *flags, *variant)

    def has(header, *options):
        return subprocess.run([compiler, *options, "-E", "-x", "c++", "-"], input=f"#include <{header}>", text=True,
                              stdout=subprocess.DEVNULL).returncode == 0

    if has("omp.h", "-fopenmp"):
        compiles(compiler, *flags, "-std=c++20", "-fopenmp", *([] if arm else ["-march=native"]))
    if not arm:
        headers(scratch, compiler, *flags)
    pathlib.Path(scratch).mkdir(parents=True, exist_ok=True)
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"] if arm else []
    libcxx = [["-stdlib=libc++"]] if "clang" in compiler and has("algorithm", "-stdlib=libc++") else []
    for variant in [["-fno-exceptions", "-fno-rtti"], *([[]] if arm else libcxx)]:
        built = subprocess.run([compiler, *flags, "-O1", "-DONE_UNIT", *variant, USES, "-o", "program"], cwd=scratch)
        done = subprocess.run([*emulator, "./program"], cwd=scratch, stdout=subprocess.PIPE, text=True)
        said = "on_failure: LoRA::forward: x is 7x3, expected 8x3 (in_features x tokens)\n" if len(variant) == 2 else ""
        good = built.returncode == done.returncode == 0 and done.stdout == said
        expect(good, f"{variant}: {done.returncode}, {done.stdout}")


def mixed(compiler, *flags):
    """Files of two instruction sets with merge() do not link, unless one of them has another name for Eigen."""
    symbol = "hydralora_needs_one_instruction_set_for_namespace_Eigen"
    avx2 = ["-mavx2", "-mfma"]
    with tempfile.TemporaryDirectory() as folder:
        for name, options in ("main", []), ("other", avx2), ("renamed", [*avx2, "-DEigen=Eigen_avx2"]):
            text = f"#include <hydralora/core/one_instruction_set.hpp>\nint {name}() {{ return 0; }}\n"
            subprocess.run([compiler, *flags, *options, "-O0", "-c", "-x", "c++", "-", "-o", name + ".o"], input=text,
                           text=True, cwd=folder, check=True)
        for name, good in ("other", False), ("renamed", True):
            done = subprocess.run([compiler, *flags, "main.o", name + ".o", "-o", "program"], cwd=folder, text=True,
                                  stderr=subprocess.PIPE)
            as_expected = (done.returncode == 0) == good != (symbol in done.stderr)
            expect(as_expected, f"{name}: {done.returncode} {done.stderr}")


actions = [rules, includes, headers, refused, packaging, dependencies, compiles, matrix, mixed]
{action.__name__: action for action in actions}[sys.argv[1]](*sys.argv[2:])
sys.exit("\n".join(failures) or 0)
