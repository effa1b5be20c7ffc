cmake_minimum_required(VERSION 3.23)
# Runs PROGRAM and compares what it prints with the file EXPECTED.
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE actual RESULT_VARIABLE result)
file(READ ${EXPECTED} expected)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} ended with ${result}")
elseif(NOT actual STREQUAL expected)
  message(FATAL_ERROR "printed:\n${actual}\nexpected (${EXPECTED}):\n${expected}")
endif()
