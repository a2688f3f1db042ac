// Kernel packs: many cubins in one read-only file, made ahead of deployment. Knows bytes and keys, nothing of
// CUDA.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.hpp"

namespace fathom::jit {

// A pack is
//   offset  bytes
//   0       8      "FTHMPACK"
//   8       4      version, 1, little-endian as all numbers
//   12      4      bytes of the manifest
//   16      32     SHA-256 of the manifest
//   48             manifest: one JSON object in UTF-8
//                    {"fathom": "0.1.0", "nvrtc": "13.0", "kernels": [
//                      {"name": ..., "arch": "sm_90a", "key": ..., "offset": ..., "bytes": ..., "sha256":
//                      ...}]}
//   then, at the next multiple of 64, the payloads, from which "offset" counts; each starts at a multiple of
//   64

struct PackEntry {
  std::string name;
  std::string arch;
  std::string key;  // cache_key() with the pack's version of NVRTC
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
  std::string sha256;
};

/// A kernel to be packed.
struct PackInput {
  std::string name;
  std::string arch;
  std::string key;
  std::vector<std::byte> bytes;
};

class KernelPack {
 public:
  /// Maps the file and checks its header and manifest; payloads are checked when they are used. Throws
  /// FileError.
  static KernelPack open(const std::filesystem::path& file);
  /// The same for bytes in memory, which must outlive the pack. `origin` stands in error messages.
  static KernelPack parse(std::span<const std::byte> bytes, const std::string& origin);

  const std::string& origin() const { return origin_; }
  const std::string& fathom_version() const { return fathom_version_; }
  const std::string& nvrtc_version() const { return nvrtc_version_; }
  std::span<const PackEntry> entries() const { return entries_; }  // sorted by key
  std::int64_t total_bytes() const { return static_cast<std::int64_t>(bytes_.size()); }

  const PackEntry* find(std::string_view key) const;
  /// The payload. Throws FileError if its SHA-256 is not that of the manifest.
  std::span<const std::byte> payload(const PackEntry& entry) const;

 private:
  std::string origin_;
  MappedFile file_;
  std::span<const std::byte> bytes_;
  std::int64_t payloads_ = 0;  // where they begin
  std::string fathom_version_;
  std::string nvrtc_version_;
  std::vector<PackEntry> entries_;
};

/// Writes a pack; the name shows a whole pack or what was there before. The same kernels give the same bytes.
/// Throws FileError.
void write_pack(const std::filesystem::path& file, std::vector<PackInput> kernels,
                const std::string& nvrtc_version);

/// What a context uses: the given file (a FileError if it is no pack), else fathom.pack beside the library or
/// the program (a warning if it is no pack), else nothing.
std::optional<KernelPack> find_pack(const std::string& given);

}  // namespace fathom::jit
