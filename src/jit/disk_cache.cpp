#include "jit/disk_cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "core/log.hpp"
#include "core/sha256.hpp"
#include "jit/options.hpp"

namespace fathom::jit {
namespace {

constexpr std::size_t kMaxPayload = std::size_t{256} << 20;

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

std::string reason() { return std::strerror(errno); }

// "fathom-kernel-1 KEY SHA256 BYTES\n"
std::string header_of(std::string_view key, const DiskCache::Bytes& payload) {
  return fmt::format("{} {} {} {}\n", kCacheFormat, key, sha256(payload), payload.size());
}

bool read_all(int file, std::byte* to, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::read(file, to, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(int file, const void* data, std::size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(file, from, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    from += done;
    bytes -= static_cast<std::size_t>(done);
  }
  return true;
}

std::string file_name(std::string_view name, std::string_view key) {
  return fmt::format("{}.{}.cubin", name, key.substr(0, 32));
}

// Whether a folder holds nothing that is not ours: only then its mode may be changed.
bool holds_only_entries(int directory) {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* list = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (list == nullptr) return false;
  bool ours = true;
  while (const dirent* entry = ::readdir(list)) {
    const std::string_view name = entry->d_name;
    ours = ours && (name == "." || name == ".." || name.ends_with(".cubin") || name.ends_with(".lock") ||
                    name.ends_with(".tmp"));
  }
  ::closedir(list);
  return ours;
}

}  // namespace

std::string DiskCache::default_directory() {
  // The XDG rules: a path that is not absolute counts as not set.
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return std::string(cache) + "/fathom";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/')
    return std::string(home) + "/.cache/fathom";
  return {};
}

DiskCache::DiskCache(std::string directory, std::chrono::milliseconds patience)
    : directory_(directory.empty() ? default_directory() : std::move(directory)), patience_(patience) {
  if (directory_.empty()) {
    turn_off("neither FATHOM_CACHE_DIR nor XDG_CACHE_HOME nor HOME names a folder");
  } else {
    open_directory();
  }
}

DiskCache::~DiskCache() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void DiskCache::turn_off(std::string_view why) {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  log_info(fmt::format("compiled kernels are kept in memory only: {}", why));
}

void DiskCache::open_directory() {
  while (directory_.size() > 1 && directory_.ends_with('/')) directory_.pop_back();
  for (std::size_t at = 1; at != std::string::npos; ++at) {  // the folders above it, too
    at = directory_.find('/', at);
    if (::mkdir(directory_.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST && at == std::string::npos) {
      return turn_off(fmt::format("{} cannot be made: {}", directory_, reason()));
    }
    if (at == std::string::npos) break;
  }
  descriptor_ = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor_ < 0) {
    const bool link = errno == ELOOP || std::filesystem::is_symlink(std::filesystem::path(directory_));
    return turn_off(
        fmt::format("{} {}", directory_, link ? "is a symbolic link" : "cannot be opened: " + reason()));
  }
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0)
    return turn_off(fmt::format("{} cannot be read: {}", directory_, reason()));
  if (status.st_uid != ::geteuid()) {
    return turn_off(fmt::format("{} belongs to user {}, not to {}", directory_, status.st_uid, ::geteuid()));
  }
  if ((status.st_mode & 077) == 0) return;
  if ((status.st_mode & S_ISVTX) != 0 || !holds_only_entries(descriptor_) ||
      ::fchmod(descriptor_, 0700) != 0) {
    turn_off(fmt::format("{} is open to other users (mode {:o}) and holds more than kernels", directory_,
                         status.st_mode & 07777u));
  }
}

void DiskCache::discard(const std::string& file, std::string_view why) {
  const bool removed = ::unlinkat(descriptor_, file.c_str(), 0) == 0;
  log_warning(
      fmt::format("{}/{} {}; it is {}", directory_, file, why,
                  removed ? "removed and made again" : "not used and cannot be removed: " + reason()));
}

void DiskCache::report_once(std::string_view what) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(reported_, true)) return;
  log_info(fmt::format("compiled kernels are kept in memory only: {}: {}", directory_, what));
}

std::optional<DiskCache::Bytes> DiskCache::load(std::string_view name, std::string_view key) {
  if (!usable()) return {};
  const std::string file = file_name(name, key);
  const Descriptor entry{::openat(descriptor_, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  const auto refuse = [&](std::string_view why) -> std::optional<Bytes> {
    discard(file, why);
    return {};
  };
  if (entry.value < 0) {
    if (errno == ELOOP) return refuse("is a symbolic link");
    if (errno == EACCES) return refuse("may not be read");
    return {};
  }
  struct stat status {};
  if (::fstat(entry.value, &status) != 0 || !S_ISREG(status.st_mode)) return refuse("is no regular file");
  if (status.st_uid != ::geteuid()) return refuse(fmt::format("belongs to user {}", status.st_uid));
  if ((status.st_mode & 022) != 0)
    return refuse(fmt::format("may be written by others (mode {:o})", status.st_mode & 07777u));
  const std::string shortest = header_of(key, {});
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size < shortest.size() || size > kMaxPayload)
    return refuse(fmt::format("is damaged: it has {} bytes", size));
  Bytes bytes(size);
  if (!read_all(entry.value, bytes.data(), size)) return refuse("is damaged: it ends early");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), size);
  const auto line_end = text.substr(0, shortest.size() + 20).find('\n');
  if (line_end == std::string_view::npos) return refuse("is damaged: its header has no end");
  const std::string header(text.substr(0, line_end + 1));
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(header.size()));
  if (header != header_of(key, bytes)) return refuse("is damaged: its SHA-256 or its key is another");
  return bytes;
}

void DiskCache::store(const std::string& file, std::string_view key, const Bytes& payload) {
  // The process's number keeps writers apart; the counter passes what a killed one of the same number left.
  std::string temporary;
  Descriptor out;
  for (int attempt = 0; attempt < 100; ++attempt) {
    temporary = fmt::format("{}.{}-{}.tmp", file, ::getpid(), attempt);
    out.value =
        ::openat(descriptor_, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out.value >= 0 || errno != EEXIST) break;
  }
  if (out.value < 0) return report_once(reason());
  const std::string header = header_of(key, payload);
  // No fsync: an entry that a power cut damages is found by its SHA-256 and made again.
  if (write_all(out.value, header.data(), header.size()) &&
      write_all(out.value, payload.data(), payload.size()) &&
      ::renameat(descriptor_, temporary.c_str(), descriptor_, file.c_str()) == 0) {
    return;
  }
  const std::string why = reason();
  ::unlinkat(descriptor_, temporary.c_str(), 0);
  report_once(why);
}

void DiskCache::wait_for(int lock) const {
  const auto end = std::chrono::steady_clock::now() + patience_;
  // EWOULDBLOCK: another has it. Any other failure is a file system without locks.
  while (::flock(lock, LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
    if (std::chrono::steady_clock::now() > end) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

DiskCache::Bytes DiskCache::load_or_make(std::string_view name, std::string_view key,
                                         const std::function<Bytes()>& make) {
  if (!usable()) return make();
  if (auto bytes = load(name, key)) return *std::move(bytes);
  const std::string file = file_name(name, key);
  // Locks go away with their process. To go on without one costs double work, never a wrong result.
  const Descriptor lock{
      ::openat(descriptor_, (file + ".lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (lock.value < 0) {
    report_once(reason());
    return make();
  }
  wait_for(lock.value);
  if (auto bytes = load(name, key)) return *std::move(bytes);  // another made it meanwhile
  Bytes bytes = make();
  store(file, key, bytes);
  return bytes;
}

}  // namespace fathom::jit
