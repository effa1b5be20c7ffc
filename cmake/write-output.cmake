# cmake -DPROGRAM=... -DOUTPUT=... -P write-output.cmake: what the program prints becomes the file, or the file stays as it is.
execute_process(COMMAND ${CMAKE_COMMAND} -E env OMP_WAIT_POLICY=passive ${PROGRAM} OUTPUT_VARIABLE text RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} failed: ${result}")
endif()
file(WRITE ${OUTPUT} "${text}")
message("${OUTPUT} written")
