// Keeps cubins between processes, in one folder of files. Knows names, keys and bytes, nothing of CUDA.
#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::jit {

/// A file is NAME.KEY.cubin: a header with the key and the payload's SHA-256, then the payload. Files appear
/// by rename and have mode 0600; the folder has 0700 and belongs to the user. An entry that is damaged,
/// somebody else's, or a symbolic link is removed with one warning. Where the folder cannot be had or
/// written, there is no disk cache: one line of the log says why, and no call fails for it.
class DiskCache {
 public:
  using Bytes = std::vector<std::byte>;

  /// Makes the folder if it is missing. Empty: default_directory(). `patience`: how long to wait for another
  /// process that makes the same entry, which may have been stopped for good.
  explicit DiskCache(std::string directory, std::chrono::milliseconds patience = std::chrono::minutes(2));
  ~DiskCache();
  DiskCache(const DiskCache&) = delete;
  DiskCache& operator=(const DiskCache&) = delete;

  /// $XDG_CACHE_HOME/fathom, else $HOME/.cache/fathom, else nothing.
  static std::string default_directory();

  /// The folder, even if it cannot be used.
  const std::string& directory() const { return directory_; }
  bool usable() const { return descriptor_ >= 0; }

  std::optional<Bytes> load(std::string_view name, std::string_view key);
  /// The entry; if there is none, what make() gives, which is stored. Of all the processes and threads that
  /// ask for one entry at once, one calls make() and the others wait for it. What make() throws is passed on.
  Bytes load_or_make(std::string_view name, std::string_view key, const std::function<Bytes()>& make);

 private:
  void open_directory();
  void turn_off(std::string_view why);
  void store(const std::string& file, std::string_view key, const Bytes& payload);
  void discard(const std::string& file, std::string_view why);
  void wait_for(int lock) const;
  void report_once(std::string_view what);

  std::string directory_;
  std::chrono::milliseconds patience_;
  int descriptor_ = -1;  // of the folder: what is looked at and what is opened cannot be two things
  std::mutex mutex_;
  bool reported_ = false;  // that the folder cannot be written
};

}  // namespace fathom::jit
