#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks of the headers and the packages that need no program of their own.

usage: checks.py rules
       checks.py packaging VERSION
       checks.py refused COMPILER FLAGS...
       checks.py includes
       checks.py headers SCRATCH_FOLDER COMPILER FLAGS...
"""
import ast
import collections
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
LEVELS = ["core", "kernels", "layers", "train", "analysis", "io", "interop"]  # a header includes its own level and those before it
failures = []


def expect(good, *message):
    if not good:
        failures.append(" ".join(str(part) for part in message))


def rules():
    """Includes point down; #if and #pragma omp are in one place each; umbrella headers include the project's headers only."""
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
        for type_name in re.findall(r"^(?:class|struct|enum class|using) ([A-Z]\w+)(?= *[:{=]| final)", code[name], re.M):
            home.setdefault(type_name, set()).add(name)
    for name in code:
        reached, new = set(), [name]
        while new:
            reached |= set(new)
            new = [other for header in new for other in included.get(header, []) if other not in reached]
        for type_name in set(re.findall(r"(?<![.:\w])[A-Z]\w+", code[name])) & home.keys():
            local = re.search(rf"(class|struct|using|typename|class\.\.\.) {type_name}\b", code[name])  # a parameter, or declared
            expect(local or home[type_name] & reached, f"{name} uses {type_name} and does not include {' or '.join(home[type_name])}")
    expect(len(home) >= 40, f"only {len(home)} types were found")


def headers(scratch, compiler, *flags):
    """Every header compiles in a file of its own, included twice. Those of interop/ need their hosts: tests/interop compiles them."""
    scratch = pathlib.Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    command = [compiler, *flags, "-I", str(INCLUDE), "-fsyntax-only"]
    found = subprocess.run([*command, "-x", "c++", "-"], input="#include <nlohmann/json_fwd.hpp>", text=True, stderr=subprocess.DEVNULL)
    skipped = {"interop"} if found.returncode == 0 else {"interop", "io"}
    names = sorted(str(path.relative_to(INCLUDE)) for path in INCLUDE.rglob("*.hpp"))
    names = [name for name in names if name.split("/")[1] not in skipped]
    for name in names:
        (scratch / "header.cpp").write_text(f"#include <{name}>\n" * 2)
        expect(subprocess.run([*command, "header.cpp"], cwd=scratch).returncode == 0, f"{name} fails alone")
    expect(len(names) >= 30, f"only {len(names)} headers were checked")


def refused(compiler, *flags):
    """compile_fail.cpp gives the compiler's messages that it says, each as often, and no other failed assertion. Versions of Eigen
    and xsimd that are too old are refused without any build system."""
    here = ROOT / "tests" / "build"
    command = [compiler, *flags, str(here / "compile_fail.cpp")]
    output = subprocess.run([*command, "-fsyntax-only"], stderr=subprocess.PIPE, text=True).stderr
    assertions = [line for line in output.splitlines() if "error: static" in line and "failed" in line]
    expected = collections.Counter(re.findall("// error: (.*)", (here / "compile_fail.cpp").read_text()))
    for message, count in expected.items():
        found = sum(message in line for line in assertions)
        expect(found == count, f"'{message}': {found} times, expected {count}")
    expect(len(assertions) == sum(expected.values()) >= 7, output)
    output = subprocess.run([compiler, f"-I{here / 'old_versions'}", *flags, "-fsyntax-only", "-x", "c++", "-"], text=True,
                            input="#include <hydralora/core/simd.hpp>", stderr=subprocess.PIPE).stderr
    for message in "hydralora needs Eigen 3.4 or newer", "hydralora needs xsimd 8.1 or newer":
        expect(message in output, f"an old version is accepted: no '{message}'")


def packaging(version):
    """What can be said of the recipes in packaging/ without their tools: they parse, and the files and options they name exist."""
    folder = ROOT / "packaging"
    manifest = json.loads((folder / "vcpkg" / "vcpkg.json").read_text())
    expect(manifest["version"] == version, f"vcpkg.json says {manifest['version']}, version.hpp {version}")
    for recipe in "conanfile.py", "test_package/conanfile.py":
        ast.parse((folder / "conan" / recipe).read_text())
    for file, start, base in (("vcpkg/portfile.cmake", "${CURRENT_PORT_DIR}", folder / "vcpkg"),
                                 ("vcpkg/portfile.cmake", "${SOURCE_PATH}", ROOT),
                                 ("conan/test_package/CMakeLists.txt", "add_executable(your_program ", folder / "conan" / "test_package")):
        paths = re.findall(re.escape(start) + r"(/?\.?[./\w]+)", (folder / file).read_text())
        expect(paths, f"{file} names no file after {start}")
        for path in paths:
            expect(os.path.exists(f"{base}/{path}"), f"{file}: {base}/{path} does not exist")
    options = re.findall(r"-D(\w+)=", (folder / "vcpkg" / "portfile.cmake").read_text())
    for option in options:
        expect(f"option({option} " in (ROOT / "CMakeLists.txt").read_text(), f"{option} is no option of the project")
    expect(options, "the port sets no options")


actions = [rules, includes, headers, refused, packaging]
{action.__name__: action for action in actions}[sys.argv[1]](*sys.argv[2:])
sys.exit("\n".join(failures) or 0)
