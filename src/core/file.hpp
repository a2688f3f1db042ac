// Reading whole files and mapping them, with errors that name the file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace fathom {

/// The file's bytes. Throws FileError if it is missing, unreadable, not a regular file (a symbolic link to
/// one is fine), or larger than max_bytes: nothing is read then.
std::string read_file(const std::filesystem::path& file, std::int64_t max_bytes);

/// A read-only view of a whole regular file in memory. Pages are read when they are first touched; the bytes
/// stay valid until the object dies, even if the name is removed. Move-only.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws FileError as read_file does.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// Writes a file so that its name only ever shows the old or the whole new content: the bytes go to a
/// temporary file in the same directory, which commit() renames. Without commit() nothing stays. Where the
/// machine fails, as with a full disk, all of it throws EnvironmentError.
class AtomicFile {
 public:
  /// Throws FileError if the directory cannot be written or the name belongs to something that is no regular
  /// file.
  explicit AtomicFile(std::filesystem::path file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  std::filesystem::path file_;
  std::string temporary_;
  int descriptor_ = -1;
};

/// A whole file at once, through AtomicFile.
void write_file(const std::filesystem::path& file, std::string_view text);

}  // namespace fathom
