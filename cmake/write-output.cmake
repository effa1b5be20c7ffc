# cmake -DPROGRAM=... -DOUTPUT=... -P write-output.cmake: what the program prints becomes the file, unless it fails.
set(ENV{OMP_WAIT_POLICY} passive)
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE text RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} failed: ${result}")
endif()
file(WRITE ${OUTPUT} "${text}")
message("${OUTPUT} written")
