cmake_minimum_required(VERSION 3.23)
# One file through a compiler that need not be the project's: COMPILER, FLAGS (a list), SOURCE, PROGRAM (the result), EMULATOR (what
# runs it; empty: it runs here).
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

run(${COMPILER} ${FLAGS} ${SOURCE} -o ${PROGRAM})
run(${EMULATOR} ${PROGRAM})
message(STATUS "${output}")
