cmake_minimum_required(VERSION 3.23)
# Installs the project, moves the prefix, and builds and runs a consumer against it.
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/first)
file(RENAME ${WORK_DIR}/first ${WORK_DIR}/moved)
file(GLOB_RECURSE installed ${WORK_DIR}/moved/*.cmake)
foreach(file IN LISTS installed)
  file(READ ${file} text)
  if(text MATCHES "${WORK_DIR}" OR text MATCHES "${BUILD_DIR}")
    message(FATAL_ERROR "${file} names a folder of the build")
  endif()
endforeach()
run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK_DIR}/build -DCMAKE_CXX_COMPILER=${CXX} -DEXPECT=${EXPECT}
    -DCMAKE_PREFIX_PATH=${WORK_DIR}/moved)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${WORK_DIR}/build/consumer)
