// Writes kernel packs, and finds the one that a context uses.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/json.hpp"
#include "core/log.hpp"
#include "core/sha256.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"
#include "jit/pack.hpp"
#include "jit/pack_format.hpp"

namespace fathom::jit {
namespace {

using namespace pack_format;

void put_u32(std::string& out, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) out += static_cast<char>(value >> (8 * i) & 255);
}

}  // namespace

void write_pack(const std::filesystem::path& file, std::vector<PackInput> kernels,
                const std::string& nvrtc_version) {
  std::ranges::sort(kernels, {}, &PackInput::key);
  const auto [first, last] = std::ranges::unique(kernels, {}, &PackInput::key);
  kernels.erase(first, last);
  Json list = Json::array();
  std::int64_t offset = 0;
  for (const PackInput& kernel : kernels) {
    const auto bytes = static_cast<std::int64_t>(kernel.bytes.size());
    list.push_back({{"name", kernel.name},
                    {"arch", kernel.arch},
                    {"key", kernel.key},
                    {"offset", offset},
                    {"bytes", bytes},
                    {"sha256", sha256(kernel.bytes)}});
    offset = align64(offset + bytes);
  }
  const std::string manifest =
      Json{{"fathom", version()}, {"nvrtc", nvrtc_version}, {"kernels", list}}.dump();
  std::string head(kMagic);
  put_u32(head, kVersion);
  put_u32(head, static_cast<std::uint32_t>(manifest.size()));
  head += from_hex(sha256(std::as_bytes(std::span(manifest)))) + manifest;
  const auto pad = [](std::size_t bytes) {
    return std::string(static_cast<std::size_t>(align64(static_cast<std::int64_t>(bytes))) - bytes, '\0');
  };
  AtomicFile out(file);
  out.write(head + pad(head.size()));
  for (const PackInput& kernel : kernels) {
    out.write(kernel.bytes);
    out.write(pad(kernel.bytes.size()));
  }
  out.commit();
}

std::optional<KernelPack> find_pack(const std::string& given) {
  if (!given.empty()) return KernelPack::open(given);
  std::vector<std::filesystem::path> folders;
  Dl_info library{};
  if (dladdr(reinterpret_cast<const void*>(&find_pack), &library) != 0 && library.dli_fname != nullptr) {
    folders.push_back(std::filesystem::path(library.dli_fname).parent_path());
  }
  std::error_code ignored;
  folders.push_back(std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path());
  for (const auto& folder : folders) {
    // A program that was found through PATH may only know its bare name: never the current folder, where
    // others may write.
    if (!folder.is_absolute()) continue;
    const auto file = folder / "fathom.pack";
    if (!std::filesystem::exists(file, ignored)) continue;
    try {
      return KernelPack::open(file);
    } catch (const FileError& error) {
      log_warning(fmt::format("{}; it is not used", error.what()));
    }
  }
  return {};
}

}  // namespace fathom::jit
