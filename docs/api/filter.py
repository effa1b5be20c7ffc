#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The INPUT_FILTER of Doxygen: prints a changed header. Line numbers stay, so warnings point into the header.

- Indented lines of a comment are verbatim, and so are lines that start with "forward" or "backward" and two spaces.
- Source, Cost, Numerics, Memory and Errors are titles.
- The comment at the top of a header is the description of the file.
- The names are without the inline namespace that carries the instruction set.
"""
import re
import sys

VERBATIM = re.compile(r"  +\S|(forward|backward)  +\S")
TITLE = re.compile(r"(Source|Cost|Numerics|Memory|Errors) +(?=\S)")


def escaped(text):
    """Text without HTML and links by "#". Doxygen does this itself between backticks."""
    return "`".join(part if i % 2 else re.sub("[<#]", r"\\\g<0>", part) for i, part in enumerate(text.split("`")))


def comment(texts):
    """The lines of one comment as /** … */, in which Doxygen shows verbatim lines as they are."""
    verbatim = in_tag = False  # indented lines after a tag belong to its text
    for i, text in enumerate(texts):
        if not text.startswith("  "):
            in_tag = bool(re.match("@", text) or TITLE.match(text))
        before, verbatim = verbatim, bool(VERBATIM.match(text)) and not in_tag
        start = "@endverbatim " * (before and not verbatim) + "@verbatim " * (verbatim and not before)
        yield start + (text if verbatim else TITLE.sub(r"@titled{\1} ", escaped(text)))
    if verbatim:
        yield "@endverbatim"


lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
i = 1
while lines[i:] and lines[i].startswith("//"):  # after the licence
    lines[0] = "/// @file"
    lines[i] = re.sub("^//", "///", lines[i])
    i += 1
block = []
for line in lines + [""]:
    found = re.fullmatch("( *)///(?: (.*))?", line)
    if found:
        block.append(found[2] or "")
        continue
    if block:
        texts = list(comment(block))
        texts[len(block) - 1:] = [" ".join(texts[len(block) - 1:])]
        print("/** " + "\n".join(texts) + " */")
        block = []
    code, mark, text = line.partition("///<")
    print("" if re.search("(inline|//) namespace HYDRALORA_BUILD", code) else code + mark + escaped(text))
