// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace support {

/// Runs f in a process of its own, which is killed after so many microseconds where there is such a number.
/// @return  its status as wait() gives it.
template <class Function>
int in_child(Function&& f, long kill_after = -1) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    f();
    _exit(0);
  }
  if (kill_after >= 0) {
    usleep(static_cast<useconds_t>(kill_after));
    kill(child, SIGKILL);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace support
