// SPDX-License-Identifier: MIT
//
// Files that can be trusted half way: read without believing them, written whole or not at all.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
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

static_assert(HYDRALORA_HAS_EXCEPTIONS == 1, "hydralora: io/ reports what is wrong with a file as an exception.");

namespace hydralora {
inline namespace HYDRALORA_BUILD {

/// What is wrong with a file: what() begins with its path.
class FileError : public std::runtime_error {
 public:
  /// @param path    the file, as the caller named it.
  /// @param reason  what is wrong with it, put behind the path.
  FileError(const std::filesystem::path& path, const std::string& reason)
      : std::runtime_error(path.string() + ": " + reason), path_(path) {}
  const std::filesystem::path& path() const { return path_; }  ///< the file

 private:
  std::filesystem::path path_;
};

/// How a file is read. buffered: piece by piece; one that changes meanwhile gives an error or wrong numbers, no more.
/// mapped: the operating system brings in what is touched; the process dies if somebody cuts the file short meanwhile.
/// Without POSIX both are buffered.
enum class FileAccess { buffered, mapped };

namespace detail {

#if HYDRALORA_HAS_POSIX

[[noreturn]] inline void fail_with_errno(const std::filesystem::path& path, const char* what) {
  throw FileError(path, std::string(what) + ": " + std::generic_category().message(errno));
}

/// Closes what it holds.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  /// Closes now. @return  false where the operating system reports that something was lost.
  bool reset() { return fd_ < 0 || ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

/// As open(2), again where a signal interrupted it; holds nothing where it fails.
inline Descriptor open_file(const std::filesystem::path& path, int flags, mode_t rights = 0666) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, rights);
  } while (fd < 0 && errno == EINTR);
  return Descriptor(fd);
}

#endif

}  // namespace detail

/// A regular file that is open for reading.
class InputFile {
 public:
  /// @throws FileError  where it cannot be opened or is no regular file.
  explicit InputFile(std::filesystem::path path, FileAccess access = FileAccess::buffered);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& path() const { return path_; }  ///< as the caller named it
  std::uint64_t size() const { return size_; }                 ///< bytes in the file

  /// Bytes [offset, offset + count).
  /// @throws FileError  where they are not all there.
  void read(std::uint64_t offset, void* to, std::size_t count) const;

 private:
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
#if HYDRALORA_HAS_POSIX
  detail::Descriptor file_;
  const unsigned char* mapped_ = nullptr;
#else
  mutable std::ifstream file_;
#endif
};

/// Makes `path` hold these bytes, or leaves it as it was: they go to a new file in the same folder, which takes the place
/// of the old one when all of it is on the disk, with its rights. A link stays a link to its target. Where the process is
/// killed half way, a file named `path`.tmp-… may stay behind (hydralora.tmp-… where the name is too long for that).
/// @throws FileError  where any step fails; what `path` held is then still there, and the new file is gone. Only where the
///                    folder itself cannot be brought to the disk at the very end the new content is already in place.
void write_file_atomically(const std::filesystem::path& path, const void* bytes, std::size_t count);

#if HYDRALORA_HAS_POSIX

inline InputFile::InputFile(std::filesystem::path path, FileAccess access) : path_(std::move(path)) {
  // O_NONBLOCK: a pipe would wait for its writer before it could be refused.
  file_ = detail::open_file(path_, O_RDONLY | O_NONBLOCK);
  if (file_.get() < 0) detail::fail_with_errno(path_, "cannot open");
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) detail::fail_with_errno(path_, "cannot ask for its size");
  if (!S_ISREG(status.st_mode)) throw FileError(path_, "is no regular file");
  size_ = static_cast<std::uint64_t>(status.st_size);
  if (access == FileAccess::buffered || size_ == 0) return;
  void* mapped = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_PRIVATE, file_.get(), 0);
  if (mapped == MAP_FAILED) detail::fail_with_errno(path_, "cannot map");
  mapped_ = static_cast<const unsigned char*>(mapped);
}

inline InputFile::~InputFile() {
  if (mapped_ != nullptr) ::munmap(const_cast<unsigned char*>(mapped_), static_cast<std::size_t>(size_));
}

inline void InputFile::read(std::uint64_t offset, void* to, std::size_t count) const {
  if (offset > size_ || count > size_ - offset) {
    throw FileError(path_, "has " + std::to_string(size_) + " bytes, " + std::to_string(count) +
                               " more are needed at " + std::to_string(offset));
  }
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
}

inline void write_file_atomically(const std::filesystem::path& path, const void* bytes, std::size_t count) {
  std::filesystem::path target = path;
  std::error_code error, no_link;
  for (int links = 0; std::filesystem::is_symlink(target, no_link); ++links) {
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (!error && links >= 40) error = std::make_error_code(std::errc::too_many_symbolic_link_levels);
    if (error) throw FileError(path, "cannot follow the link: " + error.message());
    target = target.parent_path() / next;  // next alone where it is absolute
  }
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");

  // Opened first, so that nothing but the disk can fail once the new file is in place. A folder that may be written to and
  // not read cannot be opened, nor brought to the disk.
  const detail::Descriptor directory = detail::open_file(folder, O_RDONLY | O_DIRECTORY);
  if (directory.get() < 0 && errno != EACCES) detail::fail_with_errno(folder, "cannot open the folder");

  // Whom the old file's rights kept out, the new one's keep out too, at any moment.
  struct stat old {};
  const bool replaces = ::stat(target.c_str(), &old) == 0 && S_ISREG(old.st_mode);
  const mode_t rights = replaces ? old.st_mode & 0777 : 0666;

  constexpr std::size_t longest_name = 200;  // of the 255 bytes that file systems allow
  const std::string name = target.filename().string();
  const std::filesystem::path begin = folder / (name.size() <= longest_name ? name : "hydralora");
  std::filesystem::path temporary;
  detail::Descriptor file;
  for (int attempt = 0; file.get() < 0; ++attempt) {  // a name that nobody has
    temporary = begin.string() + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
    file = detail::open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, replaces ? rights & 0700 : rights);
    if (file.get() < 0 && (errno != EEXIST || attempt >= 1000)) detail::fail_with_errno(temporary, "cannot create");
  }
  // Where rights cannot be set, or the group cannot be the old one's, the new file has fewer of them.
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
    if (::fsync(file.get()) != 0) detail::fail_with_errno(temporary, "cannot bring to the disk");
    if (!file.reset()) detail::fail_with_errno(temporary, "cannot close");
    if (::rename(temporary.c_str(), target.c_str()) != 0) detail::fail_with_errno(target, "cannot replace");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  // From here on the new file is in place; what is left makes it outlive a power failure.
  if (directory.get() >= 0 && ::fsync(directory.get()) != 0 && errno != EINVAL) {  // EINVAL: no such thing here
    detail::fail_with_errno(folder, "cannot bring the folder to the disk");
  }
}

#else

inline InputFile::InputFile(std::filesystem::path path, FileAccess) : path_(std::move(path)) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path_, error)) throw FileError(path_, "is no regular file");
  size_ = std::filesystem::file_size(path_, error);
  if (error) throw FileError(path_, "cannot ask for its size: " + error.message());
  file_.open(path_, std::ios::binary);
  if (!file_) throw FileError(path_, "cannot open");
}

inline InputFile::~InputFile() = default;

inline void InputFile::read(std::uint64_t offset, void* to, std::size_t count) const {
  if (offset > size_ || count > size_ - offset) {
    throw FileError(path_, "has " + std::to_string(size_) + " bytes, " + std::to_string(count) +
                               " more are needed at " + std::to_string(offset));
  }
  file_.clear();
  file_.seekg(static_cast<std::streamoff>(offset));
  file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
  if (!file_) throw FileError(path_, "cannot read");
}

inline void write_file_atomically(const std::filesystem::path& path, const void* bytes, std::size_t count) {
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
}

#endif

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
