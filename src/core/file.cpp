#include "core/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fathom/core/error.hpp"

namespace fathom {
namespace {

[[noreturn]] void fail(const std::filesystem::path& file, std::string_view what) {
  throw FileError(fmt::format("{}: {}", file.string(), what));
}

[[noreturn]] void fail_errno(const std::filesystem::path& file, std::string_view what) {
  fail(file, fmt::format("{}: {}", what, std::strerror(errno)));
}

// Whoever named a file is not to blame for these: the disk is full or broken, or a limit is reached.
[[noreturn]] void fail_writing(const std::filesystem::path& file) {
  const std::string text = fmt::format("{}: cannot be written: {}", file.string(), std::strerror(errno));
  switch (errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      throw EnvironmentError(text);
    default:
      throw FileError(text);
  }
}

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

// The size of a regular file. O_NONBLOCK, because opening a FIFO without a writer would wait for ever.
std::int64_t open_regular(const std::filesystem::path& file, Descriptor& out) {
  out.value = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (out.value < 0) fail_errno(file, "cannot be opened");
  struct stat status {};
  if (::fstat(out.value, &status) != 0) fail_errno(file, "cannot be read");
  if (S_ISDIR(status.st_mode)) fail(file, "must be a file, is a directory");
  if (!S_ISREG(status.st_mode)) fail(file, "must be a regular file");
  return status.st_size;
}

}  // namespace

std::string read_file(const std::filesystem::path& file, std::int64_t max_bytes) {
  Descriptor descriptor;
  const std::int64_t size = open_regular(file, descriptor);
  if (size > max_bytes) fail(file, fmt::format("must have at most {} bytes, has {}", max_bytes, size));
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(descriptor.value, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(file, "cannot be read");
    if (got == 0) fail(file, fmt::format("ended after {} of {} bytes", done, size));
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

MappedFile::MappedFile(const std::filesystem::path& file) {
  Descriptor descriptor;
  const std::int64_t size = open_regular(file, descriptor);
  if (size == 0) return;  // mmap refuses empty ranges
  void* data = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE | MAP_NORESERVE,
                      descriptor.value, 0);
  if (data == MAP_FAILED) fail_errno(file, fmt::format("{} bytes cannot be mapped", size));
  data_ = static_cast<std::byte*>(data);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, static_cast<std::size_t>(size_));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

AtomicFile::AtomicFile(std::filesystem::path file) : file_(std::move(file)) {
  struct stat status {};
  if (::stat(file_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(file_, "must be a file, is a directory");
    if (!S_ISREG(status.st_mode)) fail(file_, "must be a regular file");
  }
  // The process's number keeps two writers of one file apart; the counter passes what a killed one left.
  for (int attempt = 0; descriptor_ < 0 && attempt < 100; ++attempt) {
    temporary_ = fmt::format("{}.{}-{}.tmp", file_.string(), ::getpid(), attempt);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail_writing(file_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_writing(file_);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void AtomicFile::commit() {
  // Data first, name second: after a power cut the name must not show an empty file.
  if (::fsync(descriptor_) != 0 || ::rename(temporary_.c_str(), file_.c_str()) != 0) fail_writing(file_);
  ::close(std::exchange(descriptor_, -1));
}

void write_file(const std::filesystem::path& file, std::string_view text) {
  AtomicFile out(file);
  out.write(text);
  out.commit();
}

}  // namespace fathom
