#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Keeps README.md and docs/ true.

usage: pages.py links                            links, anchors and presets exist
       pages.py excerpts                         ```c++ blocks are lines of the hosts' programs
       pages.py programs [--apart] SCRATCH COMPILER FLAGS...
                                                 ```cpp blocks are programs that print the ```text block after them
       pages.py quickstart SCRATCH               the command that compiles the first program, as it is written
       pages.py finetune SCRATCH PROGRAM         the commands of finetune_mlp.md, with fewer steps
       pages.py finetune_lm SCRATCH PROGRAM      the commands of finetune_lm.md
       pages.py consumers [--fully] SCRATCH VERSION
                                                 the ways into a build, as building.md shows them
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
failures = []


def expect(good, *message):
    if not good:
        failures.append(" ".join(str(part) for part in message))


def blocks(page, *languages):
    """(language, line number, text) of every fenced block."""
    text = page.read_text()
    for found in re.finditer(r"^```(\S+)\n(.*?)^```$", text, re.M | re.S):
        if not languages or found[1] in languages:
            yield found[1], text.count("\n", 0, found.start(2)) + 1, found[2]


def first(page, language):
    return next(text for _, _, text in blocks(page, language))


def empty_folder(path):
    shutil.rmtree(path, ignore_errors=True)
    pathlib.Path(path).mkdir(parents=True)
    return pathlib.Path(path).resolve()


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def links():
    count = 0
    pages = [*PAGES, *ROOT.glob("CHANGELOG.md"), *ROOT.glob("CONTRIBUTING.md"), *ROOT.glob("packaging/*.md")]
    prose = {page: re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S) for page in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)]+)\)", prose[page]):
            if target.startswith("https://"):
                continue
            count += 1
            file, _, anchor = target.partition("#")
            linked = (page.parent / file).resolve() if file else page
            expect(linked.exists(), f"{page.name}: {target} does not exist")
            if anchor and linked.exists():
                headings = re.findall("^#+ (.*)", linked.read_text(), re.M)
                anchors = [re.sub("[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings]
                expect(anchor in anchors, f"{page.name}: {target}: no such heading")
    expect(count >= 5, f"only {count} links were checked")
    presets = (ROOT / "CMakePresets.json").read_text()
    for page in pages:
        for name in re.findall("--preset ([a-z0-9-]+)", page.read_text()):
            expect(f'"name": "{name}"' in presets, f"{page.name} names the preset {name}, which does not exist")
    for preset in "demo", "test":
        command = f"^apt-get update && apt-get install -y .+ && cmake --workflow --preset {preset}$"
        expect(re.search(command, PAGES[0].read_text(), re.M), f"README.md lacks the whole command for {preset}")


def excerpts():
    """But for the indentation that the lines have in the program."""
    hosts = [*ROOT.glob("examples/hosts/*.cpp"), *ROOT.glob("examples/torch_host/*.cpp")]
    lines = "\n".join(path.read_text() for path in hosts)
    count = 0
    for page in PAGES:
        for _, number, text in blocks(page, "c++"):
            indented = [re.sub("^(?=.)", indent, text, flags=re.M) for indent in ("", "  ", "    ", "      ")]
            expect(any("\n" + block in lines for block in indented), f"{page.name}:{number}: in no program\n{text}")
            count += 1
    expect(count >= 12, f"only {count} excerpts were checked")


def programs(scratch, compiler, *flags):
    """All in one file, each in a namespace, or each in a file of its own (--apart)."""
    apart = scratch == "--apart"
    if apart:
        scratch, compiler, *flags = [compiler, *flags]
    scratch = empty_folder(scratch)
    found = []
    for page in PAGES:
        page_blocks = list(blocks(page, "cpp", "text"))
        for (language, number, code), after in zip(page_blocks, [*page_blocks[1:], ("", 0, "")]):
            if language == "cpp":
                name = f"{page.stem}_{number}".replace("-", "_")
                found.append((name, page, number, code, after[2] if after[0] == "text" else ""))
    for group in [[program] for program in found] if apart else [found]:
        includes, bodies, calls = set(), [], ""
        for name, page, number, code, _ in group:
            includes.update(re.findall("^#include .*", code, re.M))
            body = re.sub("^#include .*", "", code, flags=re.M).replace("int main() {", "int run() {").rstrip()
            bodies.append(f'namespace {name} {{\n#line {number} "{page}"\n{body[:-1]}  return 0;\n}}\n}}\n')
            calls += f'  if (name == "{name}") return {name}::run();\n'
        main = f"int main(int, char** argv) {{\n  const std::string name = argv[1];\n{calls}  return 1;\n}}\n"
        (scratch / "programs.cpp").write_text("\n".join([*sorted(includes), "#include <string>", *bodies, main]))
        run(compiler, "programs.cpp", *flags, "-o", "programs", cwd=scratch)
        for name, _, _, _, expected in group:
            printed = run("./programs", name, cwd=scratch)
            expect(printed == expected, f"{name} printed\n{printed}expected\n{expected}")
    expect(len(found) >= 6, f"only {len(found)} programs were checked")


def quickstart(scratch):
    scratch = empty_folder(scratch)
    page = DOCS / "quickstart.md"
    (scratch / "hydralora").symlink_to(ROOT)
    (scratch / "program.cpp").write_text(first(page, "cpp"))
    command = next(line for _, _, text in blocks(page, "sh") for line in text.splitlines() if line.startswith("g++ "))
    run("sh", "-c", command, cwd=scratch)
    printed = run("./program", cwd=scratch)
    expect(printed == first(page, "text"), f"'{command}': the program printed\n{printed}")


def finetune(scratch, program):
    """The page's names for the data, and a program in the page's place that takes fewer steps."""
    scratch = empty_folder(scratch)
    texts = sorted(pathlib.Path("/usr/share/common-licenses").iterdir())
    text = "".join(path.read_text(errors="replace") for path in texts)[:60000]
    place = scratch / "build" / "demo" / "examples" / "finetune_mlp" / "finetune_mlp"
    for folder in scratch / "contracts", scratch / "src", place.parent:
        folder.mkdir(parents=True)
    (scratch / "contracts" / "all.txt").write_text(text)
    (scratch / "book.txt").write_text(text)
    for source in ROOT.glob("examples/finetune_mlp/*.cpp"):
        shutil.copy(source, scratch / "src")
    place.write_text(f'#!/bin/sh\nexec "{program}" --steps 4 --pretraining-steps 4 --hidden 16 --batch 32 '
                     '--evaluation-examples 64 --max-bytes 60000 "$@"\n')
    place.chmod(0o755)
    commands = "".join(text for _, _, text in blocks(DOCS / "finetune_mlp.md", "sh"))
    expect(commands.count("$program") >= 3, "finetune_mlp.md: its commands are not found")
    run("bash", "-euo", "pipefail", "-c", commands, cwd=scratch)
    for folder in "mine", "out":
        expect((scratch / folder / "curves.csv").exists(), f"finetune_mlp.md: no {folder}/curves.csv")


def finetune_lm(scratch, program):
    """The page's commands, behind the two that build the program, and what they print."""
    scratch = empty_folder(scratch)
    place = scratch / "build" / "demo" / "examples" / "finetune_lm" / "finetune_lm"
    place.parent.mkdir(parents=True)
    place.symlink_to(program)
    commands = [text for _, _, text in blocks(DOCS / "finetune_lm.md", "sh")][1:]
    printed = run("bash", "-euo", "pipefail", "-c", "".join(commands), cwd=scratch)
    # another machine, other bits
    expected = re.sub(r"[0-9]\.[0-9]{4}", "0.0000", first(DOCS / "finetune_lm.md", "text"))
    expect(expected in re.sub(r"[0-9]\.[0-9]{4}", "0.0000", printed), f"finetune_lm.md: printed\n{printed}")


SHORT_PROGRAM = """#include <hydralora/version.hpp>
#include <iostream>
int main() {
  std::cout << HYDRALORA_VERSION_MAJOR << '.' << HYDRALORA_VERSION_MINOR << '.' << HYDRALORA_VERSION_PATCH << '\\n';
}
"""
HOST = """cmake_minimum_required(VERSION 3.23)
project(your_program LANGUAGES CXX)
add_executable(your_program your_program.cpp)
install(TARGETS your_program)
"""
PACKAGE_CHECKS = """
get_target_property(options hydralora::hydralora INTERFACE_COMPILE_OPTIONS)
if(options)
  message(FATAL_ERROR "flags belong to the program, and the target has ${options}")
endif()
find_package(hydralora VERSION EXACT REQUIRED)
"""
INSTALLED = ["LICENSE", "hydralora-config-version.cmake", "hydralora-config.cmake", "hydralora-dependencies.cmake",
             "hydralora-targets.cmake", "hydralora.pc"]


def consumers(scratch, version, *rest):
    """Each block of building.md in a folder laid out as a user's. build/your_program.cpp is built with find_package,
    and with --fully in every way, else a short program."""
    fully = scratch == "--fully"
    if fully:
        scratch, version = version, *rest
    scratch = empty_folder(scratch)
    shown = list(blocks(DOCS / "building.md", "cmake", "meson", "sh"))
    use = PAGES[0].read_text().partition("\n## Use it\n")[2]  # the README's other commands run the demo and the tests
    use = re.findall(r"^```(?:cmake|meson|sh)\n(.*?)^```$", use, re.M | re.S)
    expect(len(shown) >= 6 and len(use) >= 3, f"only {len(shown)} and {len(use)} blocks were found")
    for block in use:
        expect(block in [text for _, _, text in shown], f"README.md: not in building.md, and so not tested:\n{block}")

    # The installed copy is complete, and may be moved.
    (scratch / "hydralora").symlink_to(ROOT)
    install = next(text for _, _, text in shown if "cmake --install" in text)
    run("sh", "-ec", install, cwd=scratch, env={**os.environ, "HOME": str(scratch)})
    moved = (scratch / ".local").rename(scratch / "moved")
    headers = {path.relative_to(moved) for path in moved.glob("include/**/*.hpp")}
    all_headers = {path.relative_to(ROOT) for path in ROOT.glob("include/**/*.hpp")}
    expect(headers == all_headers, "not all headers are installed")
    others = [path for path in moved.rglob("*") if path.is_file() and moved / "include" not in path.parents]
    expect(sorted(path.name for path in others) == INSTALLED, "installed beside the headers:", *others)
    for path in others:
        for folder in scratch, ROOT, "/usr":
            expect(str(folder) not in path.read_text(), f"{path} names {folder}: the copy cannot be moved")
    environment = {**os.environ, "PKG_CONFIG_PATH": f"{moved}/share/pkgconfig"}

    for language, number, text in shown:
        if text == install:
            continue
        tool = "meson" if language == "meson" else "pkg-config" if "pkg-config" in text else "cmake"
        if not shutil.which(tool):
            print(f"building.md:{number} needs {tool}, which is not here:\n{text}")
            continue
        from_copy = "find_package" in text or "pkg-config" in text or language == "meson"
        work = empty_folder(scratch / str(number))
        program = (ROOT / "tests" / "build" / "your_program.cpp").read_text()
        (work / "your_program.cpp").write_text(program if fully or "find_package" in text else SHORT_PROGRAM)
        if not from_copy:
            (work / "hydralora").symlink_to(ROOT)
        if language == "sh":
            run("sh", "-ec", text, cwd=work, env=environment)
        elif language == "meson":
            (work / "meson.build").write_text(text)
            run("meson", "setup", "build", cwd=work, env=environment)
            run("meson", "compile", "-C", "build", cwd=work, env=environment)
        else:
            checks = PACKAGE_CHECKS.replace("VERSION", version) if from_copy else ""
            (work / "CMakeLists.txt").write_text(HOST + text + checks)
            run("cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={moved if from_copy else ''}", cwd=work)
            run("cmake", "--build", "build", cwd=work)
            run("cmake", "--install", "build", "--prefix", "prefix", cwd=work)
            copied = [str(path.relative_to(work)) for path in work.glob("prefix/**/*") if path.is_file()]
            expect(copied == ["prefix/bin/your_program"], f"building.md:{number}: the host installs {copied}")
        built = work / "your_program" if language == "sh" else work / "build" / "your_program"
        printed = run(built)
        expect(printed == version + "\n", f"building.md:{number}: built with version {printed}")
    if shutil.which("pkg-config"):
        run("pkg-config", "--exists", f"hydralora = {version}", env=environment)


actions = [links, excerpts, programs, quickstart, finetune, finetune_lm, consumers]
{action.__name__: action for action in actions}[sys.argv[1]](*sys.argv[2:])
sys.exit("\n".join(failures) or 0)
