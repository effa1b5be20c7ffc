#!/usr/bin/env bash
# The commands of two pages, run as they are written: quickstart.md compiles its first program, finetune_mlp.md runs the demo on
# data of one's own. (Those of README.md and building.md are the consumers', blocks.cmake; presets are looked up, links.cmake.)
# usage: commands.sh PROJECT SCRATCH_FOLDER [FINETUNE_MLP]
set -euo pipefail
project=$1
scratch=$2
finetune_mlp=${3:-}
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$scratch"

# blocks LANGUAGE PAGE: the lines of a page's blocks of this language, each block ended by a line with a form feed.
blocks() { awk -v start="\`\`\`$1" '$0 == start { on = 1; next } on && /^```/ { on = 0; print "\f"; next } on' "$project/docs/$2"; }
first_block() { blocks "$@" | awk '/\f/ { exit } { print }'; }

ln -s "$project" hydralora
first_block cpp quickstart.md >program.cpp
compile=$(blocks sh quickstart.md | grep '^g++ ')
echo "+ $compile"
eval "$compile"
./program | diff - <(first_block text quickstart.md) || { echo "FAILED: quickstart.md: another output"; exit 1; }

[ -n "$finetune_mlp" ] || exit 0
# The page's names for the data, and a program in the page's place that takes fewer steps.
mkdir -p contracts src build/demo/examples/finetune_mlp
head -c 60000 <(cat /usr/share/common-licenses/*) >contracts/all.txt
cp "$project"/examples/finetune_mlp/*.cpp src/
cp contracts/all.txt book.txt
cat >build/demo/examples/finetune_mlp/finetune_mlp <<END
#!/bin/sh
exec "$finetune_mlp" --steps 4 --pretraining-steps 4 --hidden 16 --batch 32 --evaluation-examples 64 --max-bytes 60000 "\$@"
END
chmod +x build/demo/examples/finetune_mlp/finetune_mlp
blocks sh finetune_mlp.md | grep -v $'\f' >commands
cat commands
bash -euo pipefail commands >log
[ -e mine/curves.csv ] && [ -e out/curves.csv ] || { echo "FAILED: finetune_mlp.md: no results"; exit 1; }
