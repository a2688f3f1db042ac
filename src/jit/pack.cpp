#include "jit/pack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/json.hpp"
#include "core/sha256.hpp"
#include "fathom/core/error.hpp"
#include "jit/pack_format.hpp"

namespace fathom::jit {
namespace {

using namespace pack_format;

constexpr std::int64_t kHeaderBytes = 48;
constexpr std::int64_t kMaxKernelBytes = std::int64_t{256} << 20;

std::uint32_t get_u32(const std::byte* bytes) {
  std::uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | std::to_integer<std::uint32_t>(bytes[i]);
  return value;
}

std::string hex_field(const JsonObject& object, std::string_view key) {
  std::string text = object.string(key);
  const bool hex = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!hex) object.fail(key, "64 hexadecimal digits");
  return text;
}

}  // namespace

KernelPack KernelPack::parse(std::span<const std::byte> bytes, const std::string& origin) {
  const auto fail = [&origin](std::string_view what) {
    throw FileError(fmt::format("{}: {}", origin, what));
  };
  KernelPack pack;
  pack.origin_ = origin;
  pack.bytes_ = bytes;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::int64_t size = pack.total_bytes();
  if (size < kHeaderBytes || !text.starts_with(kMagic)) fail("is no kernel pack");
  if (const auto version = get_u32(&bytes[8]); version != kVersion) {
    fail(fmt::format("is a kernel pack of version {}; this build reads version {}", version, kVersion));
  }
  const std::int64_t manifest_bytes = get_u32(&bytes[12]);
  if (manifest_bytes > size - kHeaderBytes) fail("ends inside of its manifest");
  const std::string_view manifest = text.substr(kHeaderBytes, static_cast<std::size_t>(manifest_bytes));
  if (from_hex(sha256(std::as_bytes(std::span(manifest)))) != text.substr(16, 32)) {
    fail("is damaged: its manifest's SHA-256 is another");
  }
  const Json json = parse_json(manifest, origin);
  const JsonObject root(json, origin);
  pack.fathom_version_ = root.string("fathom");
  pack.nvrtc_version_ = root.string("nvrtc");
  pack.payloads_ = align64(kHeaderBytes + manifest_bytes);
  const Json& list = root.list("kernels");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonObject kernel(list[i], origin, fmt::format("kernels[{}]", i));
    PackEntry entry;
    entry.name = kernel.string("name");
    entry.arch = kernel.string("arch");
    entry.key = hex_field(kernel, "key");
    entry.sha256 = hex_field(kernel, "sha256");
    entry.offset = kernel.integer("offset", 0, size);
    entry.bytes = kernel.integer("bytes", 1, kMaxKernelBytes);
    if (entry.offset % 64 != 0) kernel.fail("offset", "a multiple of 64");
    if (entry.bytes > size - pack.payloads_ - entry.offset)
      fail("ends inside of kernel " + printable(entry.name));
    pack.entries_.push_back(std::move(entry));
  }
  std::ranges::sort(pack.entries_, {}, &PackEntry::key);
  const auto twice = std::ranges::adjacent_find(pack.entries_, {}, &PackEntry::key);
  if (twice != pack.entries_.end()) fail("has kernel " + printable(twice->name) + " twice");
  return pack;
}

KernelPack KernelPack::open(const std::filesystem::path& file) {
  MappedFile mapped(file);
  KernelPack pack = parse({mapped.data(), static_cast<std::size_t>(mapped.size())}, file.string());
  pack.file_ = std::move(mapped);
  return pack;
}

const PackEntry* KernelPack::find(std::string_view key) const {
  const auto at = std::ranges::lower_bound(entries_, key, {}, &PackEntry::key);
  return at != entries_.end() && at->key == key ? &*at : nullptr;
}

std::span<const std::byte> KernelPack::payload(const PackEntry& entry) const {
  const auto bytes = bytes_.subspan(static_cast<std::size_t>(payloads_ + entry.offset),
                                    static_cast<std::size_t>(entry.bytes));
  if (sha256(bytes) != entry.sha256) {
    throw FileError(
        fmt::format("{}: kernel {} is damaged: its SHA-256 is another", origin_, printable(entry.name)));
  }
  return bytes;
}

}  // namespace fathom::jit
