# The page of a committed run: made compact, rendered, and compared with what is expected. After a change of the page that is
# meant, copy the files from FOLDER to bench/tests/expected.
file(REMOVE_RECURSE ${FOLDER})
file(MAKE_DIRECTORY ${FOLDER})
execute_process(COMMAND ${REPORT} compact ${SAMPLES}/run.json ${SAMPLES}/compile_time.json ${FOLDER}/benchmarks.json
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${REPORT} render ${FOLDER}/benchmarks.json ${FOLDER}/benchmarks.md ${FOLDER}
                COMMAND_ERROR_IS_FATAL ANY)
file(GLOB expected RELATIVE ${SAMPLES}/expected ${SAMPLES}/expected/*)
file(GLOB written RELATIVE ${FOLDER} ${FOLDER}/*)
if(NOT expected STREQUAL written)
  message(SEND_ERROR "written: ${written}, expected: ${expected}")
endif()
foreach(name IN LISTS expected)
  execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${SAMPLES}/expected/${name} ${FOLDER}/${name} RESULT_VARIABLE differs)
  if(differs)
    message(SEND_ERROR "${FOLDER}/${name} differs from ${SAMPLES}/expected/${name}")
  endif()
endforeach()
