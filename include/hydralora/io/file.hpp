// SPDX-License-Identifier: MIT
// Checked reading and atomic writing of files.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "hydralora/core/config.hpp"

#if HYDRALORA_HAS_POSIX
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#include <fstream>
#endif

static_assert(HYDRALORA_HAS_EXCEPTIONS == 1, "hydralora: io/ reports errors as exceptions.");

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// An error in a file. what() begins with the file's path.
class FileError : public std::runtime_error {
 public:
  FileError(const std::filesystem::path& path, const std::string& reason)
      : std::runtime_error(path.string() + ": " + reason), path_(path) {}
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// How a file is read. buffered: with read calls; a file that changes meanwhile gives an error or wrong numbers.
/// mapped: with mmap; the process dies if the file is truncated meanwhile. Without POSIX both are buffered.
enum class FileAccess { buffered, mapped };

namespace detail {

#if HYDRALORA_HAS_POSIX

[[noreturn]] inline void fail_with_errno(const std::filesystem::path& path, const char* what) {
  throw FileError(path, std::string(what) + ": " + std::generic_category().message(errno));
}

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  /// Closes it. @return  false on an error: data may be lost.
  bool reset() { return fd_ < 0 || ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

/// open(2), repeated after a signal. The result holds no descriptor on failure.
inline Descriptor open_file(const std::filesystem::path& path, int flags, mode_t rights = 0666) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, rights);
  } while (fd < 0 && errno == EINTR);
  return Descriptor(fd);
}

#endif

}  // namespace detail

/// A regular file, open for reading.
class InputFile {
 public:
  /// @throws FileError  if it cannot be opened or is not a regular file.
  explicit InputFile(std::filesystem::path path, [[maybe_unused]] FileAccess access = FileAccess::buffered)
      : path_(std::move(path)) {
#if HYDRALORA_HAS_POSIX
    // O_NONBLOCK: opening a pipe would wait for its writer.
    file_ = detail::open_file(path_, O_RDONLY | O_NONBLOCK);
    if (file_.get() < 0) detail::fail_with_errno(path_, "cannot open");
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0) detail::fail_with_errno(path_, "cannot determine its size");
    if (!S_ISREG(status.st_mode)) throw FileError(path_, "is not a regular file");
    size_ = static_cast<std::uint64_t>(status.st_size);
    if (access == FileAccess::buffered || size_ == 0) return;
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.get(), 0);
    if (mapped == MAP_FAILED) detail::fail_with_errno(path_, "cannot map");
    mapped_ = static_cast<const unsigned char*>(mapped);
#else
    std::error_code error;
    if (!std::filesystem::is_regular_file(path_, error)) throw FileError(path_, "is not a regular file");
    size_ = std::filesystem::file_size(path_, error);
    if (error) throw FileError(path_, "cannot determine its size: " + error.message());
    file_.open(path_, std::ios::binary);
    if (!file_) throw FileError(path_, "cannot open");
#endif
  }
  ~InputFile() {
#if HYDRALORA_HAS_POSIX
    if (mapped_ != nullptr) ::munmap(const_cast<unsigned char*>(mapped_), size_);
#endif
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// Whether several threads may read at once. All of them share the position of a std::ifstream.
  static constexpr bool reads_on_any_thread = HYDRALORA_HAS_POSIX;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; }  ///< in bytes

  /// The bytes [offset, offset + count) of a mapped file; nullptr if the file is not mapped.
  /// @throws FileError  if the file ends before.
  const unsigned char* mapped(std::uint64_t offset, std::size_t count) const {
    check_range(offset, count);
    return mapped_ == nullptr ? nullptr : mapped_ + offset;
  }
  /// Reads bytes [offset, offset + count).
  /// @throws FileError  if the file ends before.
  void read(std::uint64_t offset, void* to, std::size_t count) const {
    check_range(offset, count);
#if HYDRALORA_HAS_POSIX
    if (mapped_ != nullptr) {
      std::copy_n(mapped_ + offset, count, static_cast<unsigned char*>(to));
      return;
    }
    for (std::size_t done = 0; done < count;) {
      const ssize_t got =
          ::pread(file_.get(), static_cast<unsigned char*>(to) + done, count - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) detail::fail_with_errno(path_, "cannot read");
      if (got == 0) throw FileError(path_, "became shorter while it was read");
      done += static_cast<std::size_t>(got);
    }
#else
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset));
    file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    if (!file_) throw FileError(path_, "cannot read");
#endif
  }

 private:
  void check_range(std::uint64_t offset, std::size_t count) const {
    if (offset > size_ || count > size_ - offset) {
      throw FileError(path_, "has " + std::to_string(size_) + " bytes, " + std::to_string(count) +
                                 " more are needed at " + std::to_string(offset));
    }
  }

  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  const unsigned char* mapped_ = nullptr;
#if HYDRALORA_HAS_POSIX
  detail::Descriptor file_;
#else
  mutable std::ifstream file_;
#endif
};

/// A whole file. @throws FileError  as InputFile, or if it has more than most_bytes.
inline std::string read_text(const std::filesystem::path& path,
                             std::uint64_t most_bytes = (std::numeric_limits<std::uint64_t>::max)()) {
  const InputFile file(path);
  if (file.size() > most_bytes) {
    throw FileError(path, "has " + std::to_string(file.size()) + " bytes, at most " +
                              std::to_string(most_bytes >> 20U) + " MiB are allowed");
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

/// Replaces the content of `path`, or leaves the file unchanged. The bytes go to a temporary file in the same folder,
/// which is synced to disk and then renamed. The new file has the permissions of the old one; a symbolic link stays a
/// link. If the process is killed, a file `path`.tmp-… may remain (hydralora.tmp-… for a long name).
/// @throws FileError  if a step fails; the old file is then unchanged and the temporary one is removed. One exception:
///                    if the sync of the folder fails, at the end, the new content is already in place.
inline void write_file_atomically(const std::filesystem::path& path, const void* bytes, std::size_t count) {
#if HYDRALORA_HAS_POSIX
  std::filesystem::path target = path;
  std::error_code error, no_link;
  for (int links = 0; std::filesystem::is_symlink(target, no_link); ++links) {
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (!error && links >= 40) error = std::make_error_code(std::errc::too_many_symbolic_link_levels);
    if (error) throw FileError(path, "cannot follow the link: " + error.message());
    target = target.parent_path() / next;  // next alone where it is absolute
  }
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");

  // Opened first, so that only the sync can fail after the rename. A folder without read permission is not synced.
  const detail::Descriptor directory = detail::open_file(folder, O_RDONLY | O_DIRECTORY);
  if (directory.get() < 0 && errno != EACCES) detail::fail_with_errno(folder, "cannot open the folder");

  // At no time may the new file be readable by someone who could not read the old one.
  struct stat old {};
  const bool replaces = ::stat(target.c_str(), &old) == 0 && S_ISREG(old.st_mode);
  const mode_t rights = replaces ? old.st_mode & 0777 : 0666;

  constexpr std::size_t longest_name = 200;  // file systems allow 255 bytes
  const std::string name = target.filename().string();
  const std::filesystem::path begin = folder / (name.size() <= longest_name ? name : "hydralora");
  std::filesystem::path temporary;
  detail::Descriptor file;
  for (int attempt = 0; file.get() < 0; ++attempt) {  // until the name is unused
    temporary = begin.string() + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
    file = detail::open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, replaces ? rights & 0700 : rights);
    if (file.get() < 0 && (errno != EEXIST || attempt >= 1000)) detail::fail_with_errno(temporary, "cannot create");
  }
  // If the group cannot be set, the group gets no permissions. If the permissions cannot be set, the owner's remain.
  if (replaces) {
    const bool same_group = ::fchown(file.get(), static_cast<uid_t>(-1), old.st_gid) == 0;
    static_cast<void>(::fchmod(file.get(), same_group ? rights : rights & 0707));
  }
  try {
    for (std::size_t done = 0; done < count;) {
      const ssize_t put = ::write(file.get(), static_cast<const unsigned char*>(bytes) + done, count - done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) detail::fail_with_errno(temporary, "cannot write");
      done += static_cast<std::size_t>(put);
    }
    if (::fsync(file.get()) != 0) detail::fail_with_errno(temporary, "cannot sync to disk");
    if (!file.reset()) detail::fail_with_errno(temporary, "cannot close");
    if (::rename(temporary.c_str(), target.c_str()) != 0) detail::fail_with_errno(target, "cannot replace");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  // The new file is in place. Syncing the folder makes the rename survive a power failure.
  if (directory.get() >= 0 && ::fsync(directory.get()) != 0 && errno != EINVAL) {  // EINVAL: not supported here
    detail::fail_with_errno(folder, "cannot sync the folder to disk");
  }
#else
  const std::filesystem::path temporary = path.string() + ".tmp";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path, error);
  if (!file || error) {
    std::filesystem::remove(temporary, error);
    throw FileError(path, "cannot write");
  }
#endif
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
