// SPDX-License-Identifier: MIT
//
// Saving that is interrupted: at every system call it makes, in the middle of writes, by errors and by kill -9. The
// file is then the old one or the new one, whole.
//
// The calls are made to fail by this program's own open(), write(), fchmod(), fsync(), rename() and close(), which the
// linker prefers to the C library's.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <vector>

#include "hydralora/core/random.hpp"
#include "hydralora/io/file.hpp"
#include "support/child.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

namespace {

enum class Fault { none, kill_before, kill_after, error };

/// What happens to the next calls of this process.
struct Plan {
  Fault fault = Fault::none;
  int at = -1;                                 ///< the call it happens to
  int calls = 0;                               ///< so far
  std::size_t most_at_once = ~std::size_t{0};  ///< bytes that one write() takes
  int error = ENOSPC;
  std::vector<std::string>* trace = nullptr;  ///< gets the names of the calls
  unsigned created_with = 0;                  ///< the rights of the last file that was created
} plan;

/// Makes a call, unless the plan has it fail or kills this process before or after it.
template <class Function>
auto planned(const std::string& name, Function&& call) {
  if (plan.trace != nullptr) plan.trace->push_back(name);
  const Fault fault = plan.calls++ == plan.at ? plan.fault : Fault::none;
  if (fault == Fault::kill_before) kill(getpid(), SIGKILL);
  if (fault == Fault::error) {
    errno = plan.error;
    return decltype(call())(-1);
  }
  const auto result = call();
  if (fault == Fault::kill_after) kill(getpid(), SIGKILL);
  return result;
}

std::string kind_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode) ? "folder" : "file";
}

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const unsigned mode = (flags & O_CREAT) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  if ((flags & O_CREAT) != 0) plan.created_with = mode;
  static const auto call = real<int(const char*, int, ...)>("open");
  return planned((flags & O_DIRECTORY) != 0 ? "open folder" : "open file", [&] { return call(path, flags, mode); });
}
ssize_t write(int fd, const void* bytes, std::size_t count) {
  static const auto call = real<ssize_t(int, const void*, std::size_t)>("write");
  if (fd <= 2) return call(fd, bytes, count);  // doctest's own
  return planned("write " + kind_of(fd), [&] { return call(fd, bytes, std::min(count, plan.most_at_once)); });
}
int fsync(int fd) {
  static const auto call = real<int(int)>("fsync");
  return planned("fsync " + kind_of(fd), [&] { return call(fd); });
}
int fchmod(int fd, mode_t mode) noexcept {
  static const auto call = real<int(int, mode_t)>("fchmod");
  return planned("rights of file", [&] { return call(fd, mode); });
}
int rename(const char* from, const char* to) noexcept {
  static const auto call = real<int(const char*, const char*)>("rename");
  return planned("rename", [&] { return call(from, to); });
}
int close(int fd) {
  static const auto call = real<int(int)>("close");
  bool closed = false;
  const int result = planned("close " + kind_of(fd), [&] {
    closed = true;
    return call(fd);
  });
  if (!closed) {  // a close() that fails closes all the same
    call(fd);
    errno = plan.error;
  }
  return result;
}

}  // extern "C"

using namespace hydralora;
using namespace support;

namespace {

void save(const std::filesystem::path& path, const std::string& content) {
  write_file_atomically(path, content.data(), content.size());
}

std::string content_of(std::uint64_t which, std::size_t size) {
  const CounterRandom random(which, 61);
  std::string content(size, '\0');
  for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(random.below(256, i));
  return content;
}

/// What a save says that goes by a plan.
std::string message_with(const Plan& the_plan, const std::filesystem::path& path, const std::string& content,
                         int* calls = nullptr) {
  plan = the_plan;
  const std::string message = message_of<FileError>([&] { save(path, content); });
  if (calls != nullptr) *calls = plan.calls;
  plan = {};
  return message;
}

struct stat status_of(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status;
}

Index files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

}  // namespace

TEST_CASE("atomic save: the content is on the disk before it has the name, and the name before the call returns") {
  const TemporaryFolder folder;
  std::vector<std::string> calls;
  plan.most_at_once = 100;
  plan.trace = &calls;
  save(folder("f"), content_of(1, 150));
  plan = {};
  const std::vector<std::string> expected = {"open folder", "open file", "write file",   "write file",  "fsync file",
                                             "close file",  "rename",    "fsync folder", "close folder"};
  CHECK(calls == expected);
}

TEST_CASE("atomic save: what others left under the names of temporary files is not touched") {
  const TemporaryFolder folder;
  const auto temporary = [&](int attempt) {
    return folder("f.tmp-" + std::to_string(getpid()) + "-" + std::to_string(attempt));
  };
  write_file(temporary(0), "theirs, and longer than the new one");
  write_file(folder("victim"), "theirs");
  std::filesystem::create_symlink("victim", temporary(1));
  std::filesystem::create_symlink("nothing", temporary(2));
  save(folder("f"), "new");
  CHECK(file_content(folder("f")) == "new");
  CHECK_FALSE(std::filesystem::is_symlink(folder("f")));
  CHECK(file_content(temporary(0)) == "theirs, and longer than the new one");
  CHECK(file_content(folder("victim")) == "theirs");
  CHECK_FALSE(std::filesystem::exists(folder("nothing")));
  CHECK(files_in(folder.path()) == 5);
}

TEST_CASE("atomic save: killed before and after every call, the file is the old or the new one") {
  const TemporaryFolder folder;
  const std::string old_content = content_of(1, 5000), new_content = content_of(2, 7000);
  Index kills = 0, kept = 0, replaced = 0;
  for (const bool there_before : {true, false}) {
    for (const Fault fault : {Fault::kill_before, Fault::kill_after}) {
      for (int at = 0;; ++at) {
        CAPTURE(at);
        std::filesystem::remove(folder("f"));
        if (there_before) write_file(folder("f"), old_content);
        const int status = in_child([&] {
          plan = {fault, at, 0, 97, ENOSPC};
          save(folder("f"), new_content);
        });
        if (WIFEXITED(status)) {
          CHECK(file_content(folder("f")) == new_content);
          break;
        }
        REQUIRE(WTERMSIG(status) == SIGKILL);
        ++kills;
        if (!std::filesystem::exists(folder("f"))) {
          CHECK_FALSE(there_before);
          continue;
        }
        const std::string found = file_content(folder("f"));
        const bool is_whole = (there_before && found == old_content) || found == new_content;
        CHECK(is_whole);
        kept += found == old_content ? 1 : 0;
        replaced += found == new_content ? 1 : 0;
      }
    }
  }
  MESSAGE(kills << " kill points, " << kept << " left the old file, " << replaced << " the new one");
  CHECK(kills >= 200);
  CHECK(kept > 0);
  CHECK(replaced > 0);
  // What was left behind by the killed is no obstacle.
  save(folder("f"), old_content);
  CHECK(file_content(folder("f")) == old_content);
}

TEST_CASE("atomic save: every call that fails is reported, the old file stays and nothing is left behind") {
  const TemporaryFolder folder;
  const std::string old_content = content_of(1, 500), new_content = content_of(2, 700);
  Index failures = 0;
  for (const int error : {ENOSPC, EIO, EACCES}) {
    for (int at = 0;; ++at) {
      CAPTURE(at);
      write_file(folder("f"), old_content);
      int calls = 0;
      const std::string message = message_with({Fault::error, at, 0, 97, error}, folder("f"), new_content, &calls);
      if (calls <= at) {
        CHECK(message == "nothing thrown");
        break;
      }
      const bool after_rename = file_content(folder("f")) == new_content;
      CHECK((after_rename || file_content(folder("f")) == old_content));
      CHECK(files_in(folder.path()) == 1);
      if (message == "nothing thrown") {
        CHECK(after_rename);
        // The last call closes the folder, all is written by then; a folder that may not be read is not opened; rights
        // that cannot be set are fewer than they were.
        CHECK((calls == at + 1 || at == 2 || (at == 0 && error == EACCES)));
      } else {
        ++failures;
        CHECK(message == containing(std::generic_category().message(error)));
      }
    }
  }
  CHECK(failures >= 3 * 10);
}

TEST_CASE("atomic save: a signal in the middle of a call is no failure") {
  const TemporaryFolder folder;
  const std::string content = content_of(2, 700);
  for (int at = 0; at < 9; ++at) {  // open, the rights (a signal there would leave fewer) and the writes
    CHECK(message_with({Fault::error, at, 0, 97, EINTR}, folder("f"), content) == "nothing thrown");
    CHECK(file_content(folder("f")) == content);
    CHECK(files_in(folder.path()) == 1);
  }
}

TEST_CASE("atomic save: a folder that may not be read, or has no fsync, is no failure") {
  const TemporaryFolder folder;
  for (const auto& [at, error] : {std::pair(0, EACCES), std::pair(6, EINVAL)}) {  // its open and its fsync
    std::filesystem::remove(folder("f"));
    CHECK(message_with({Fault::error, at, 0, 100, error}, folder("f"), "new") == "nothing thrown");
    CHECK(file_content(folder("f")) == "new");
  }
}

TEST_CASE("atomic save: kill -9 at any time") {
  const TemporaryFolder folder;
  const std::string a = content_of(1, 300000), b = content_of(2, 200000);
  save(folder("f"), a);
  const CounterRandom random(7, 62);
  for (std::uint64_t round = 0; round < 60; ++round) {
    const int status = in_child(
        [&] {
          for (int i = 0;; ++i) save(folder("f"), i % 2 == 0 ? b : a);
        },
        static_cast<long>(random.below(8000, round)));
    CHECK(WIFSIGNALED(status));
    const std::string found = file_content(folder("f"));
    CHECK((found == a || found == b));
  }
}

TEST_CASE("atomic save: links stay links, a new file has the rights that new files get") {
  const TemporaryFolder folder;
  write_file(folder("target"), "old");
  std::filesystem::create_symlink("target", folder("link"));
  save(folder("link"), "new");
  CHECK(std::filesystem::is_symlink(folder("link")));
  CHECK(file_content(folder("target")) == "new");
  std::filesystem::create_directory(folder("sub"));
  std::filesystem::create_symlink("sub/later", folder("dangling"));
  std::filesystem::create_symlink("dangling", folder("second"));
  save(folder("second"), "new");
  CHECK(std::filesystem::is_symlink(folder("dangling")));
  CHECK(file_content(folder("sub") / "later") == "new");
  std::filesystem::create_symlink("loop", folder("loop"));
  CHECK(message_of<FileError>([&] { save(folder("loop"), "x"); }) == containing("cannot follow the link"));
  const mode_t mask = umask(027);
  save(folder("private"), "x");
  umask(mask);
  CHECK((status_of(folder("private")).st_mode & 0777) == 0640);
  CHECK(message_of<FileError>([&] { save(folder("no folder") / "f", "x"); }) ==
        containing("cannot open the folder: No such file"));
  std::filesystem::create_directory(folder("folder"));
  CHECK(message_of<FileError>([&] { save(folder("folder"), "x"); }) == containing("cannot replace"));
  save(folder("empty"), "");
  CHECK(file_content(folder("empty")).empty());
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  save("relative", "x");
  std::filesystem::current_path(before);
  CHECK(file_content(folder("relative")) == "x");
}

TEST_CASE("atomic save: what takes a file's place has its rights") {
  const TemporaryFolder folder;
  const mode_t mask = umask(022);
  for (const mode_t rights : {0600, 0640, 0664, 0400}) {
    CAPTURE(rights);
    const std::filesystem::path file = folder("f" + std::to_string(rights));
    write_file(file, "old");
    REQUIRE(chmod(file.c_str(), rights) == 0);
    save(file, "new");
    CHECK(file_content(file) == "new");
    CHECK((status_of(file).st_mode & 07777) == rights);
    CHECK((plan.created_with & 077U) == 0);  // nobody else may read it before it has the old file's group
  }
  if (geteuid() == 0) {  // who else may give a file away?
    write_file(folder("shared"), "old");
    REQUIRE(chown(folder("shared").c_str(), geteuid(), 12345) == 0);
    save(folder("shared"), "new");
    CHECK(status_of(folder("shared")).st_gid == 12345);
  }
  umask(mask);
}

TEST_CASE("atomic save: a name as long as the file system allows") {
  const TemporaryFolder folder;
  for (const std::size_t length : {200U, 245U, 255U}) {
    const std::string name(length, 'n');
    save(folder(name), "first");
    save(folder(name), "second");
    CHECK(file_content(folder(name)) == "second");
  }
  CHECK(files_in(folder.path()) == 3);
}
