# Runs PROGRAM's benchmarks named by FILTER, and renders the page from it with REPORT; see CMakeLists.txt for the variables.
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit RESULT_VARIABLE no_git
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(no_git)
  set(commit unknown)
else()
  # What this command itself writes does not make the benchmarked code different.
  execute_process(COMMAND git -C ${SOURCE} status --porcelain -- . ":(exclude)docs/benchmarks*"
                  OUTPUT_VARIABLE changes OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(changes)
    string(APPEND commit " with local changes")
  endif()
endif()

execute_process(
  COMMAND ${PROGRAM} "--benchmark_filter=${FILTER}" --benchmark_repetitions=${REPETITIONS} --benchmark_min_time=0.02
          --benchmark_enable_random_interleaving=true --benchmark_display_aggregates_only=true
          --benchmark_out=${FOLDER}/benchmarks.json --benchmark_out_format=json "--benchmark_context=commit=${commit}"
  OUTPUT_FILE ${FOLDER}/benchmarks.txt COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${REPORT} compact ${FOLDER}/benchmarks.json ${COMPILE_TIMES} ${DOCS}/benchmarks.json
                COMMAND_ERROR_IS_FATAL ANY)
if(GNUPLOT)
  execute_process(COMMAND ${REPORT} render ${DOCS}/benchmarks.json ${DOCS}/benchmarks.md ${FOLDER}/plots
                  COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${GNUPLOT} -e "data='${FOLDER}/plots'; out='${DOCS}/benchmarks_'" ${PLOTS}
                  COMMAND_ERROR_IS_FATAL ANY)
else()
  message(STATUS "gnuplot not found: the page has no plots (Debian: gnuplot-nox)")
  execute_process(COMMAND ${REPORT} render ${DOCS}/benchmarks.json ${DOCS}/benchmarks.md COMMAND_ERROR_IS_FATAL ANY)
endif()
message(STATUS "${DOCS}/benchmarks.md written")
