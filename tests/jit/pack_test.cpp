// Kernel packs: written, read, damaged.
#include "jit/pack.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "fathom/core/error.hpp"
#include "jit/scratch.hpp"

namespace fathom::jit {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::vector<PackInput> some_kernels() {
  return {{"gemm.b", "sm_90a", std::string(64, 'b'), bytes_of("the second kernel")},
          {"gemm.a", "sm_90a", std::string(64, 'a'), bytes_of(std::string(1000, 'x'))},
          {"gemm.a", "sm_80", std::string(64, '0'), bytes_of("y")}};
}

std::string read(const std::string& file) { return read_file(file, 1 << 20); }

KernelPack parse(const std::string& text) { return KernelPack::parse(std::as_bytes(std::span(text)), "P"); }

TEST(Pack, GivesBackWhatWasWritten) {
  const Scratch scratch;
  write_pack(scratch / "p", some_kernels(), "13.0");
  const KernelPack pack = KernelPack::open(scratch / "p");
  EXPECT_EQ(pack.nvrtc_version(), "13.0");
  ASSERT_EQ(pack.entries().size(), 3u);
  for (const PackInput& kernel : some_kernels()) {
    const PackEntry* entry = pack.find(kernel.key);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->name, kernel.name);
    EXPECT_EQ(entry->arch, kernel.arch);
    EXPECT_TRUE(std::ranges::equal(pack.payload(*entry), kernel.bytes));
  }
  EXPECT_EQ(pack.find(std::string(64, 'f')), nullptr);
  EXPECT_EQ(pack.find(""), nullptr);
}

TEST(Pack, SameKernelsInAnyOrderGiveTheSameFile) {
  const Scratch scratch;
  auto kernels = some_kernels();
  write_pack(scratch / "p", kernels, "13.0");
  std::swap(kernels[0], kernels[2]);
  kernels.push_back(kernels[1]);
  write_pack(scratch / "q", kernels, "13.0");
  EXPECT_EQ(read(scratch / "p"), read(scratch / "q"));
  write_pack(scratch / "empty", {}, "13.0");
  EXPECT_TRUE(KernelPack::open(scratch / "empty").entries().empty());
}

TEST(Pack, EveryFlippedByteButPaddingIsFound) {
  const Scratch scratch;
  write_pack(scratch / "p", some_kernels(), "13.0");
  const std::string good = read(scratch / "p");
  std::size_t unnoticed = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    try {
      const KernelPack pack = parse(bad);
      for (const PackEntry& entry : pack.entries()) pack.payload(entry);
      ++unnoticed;
      EXPECT_EQ(good[at], '\0') << at;  // padding
    } catch (const FileError& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("P: ")) << error.what();
    }
  }
  EXPECT_LT(unnoticed, 4u * 64u);
}

TEST(Pack, EveryTruncationIsFound) {
  const Scratch scratch;
  write_pack(scratch / "p", some_kernels(), "13.0");
  const std::string good = read(scratch / "p");
  for (std::size_t size = 0; size < good.size() - 63; ++size) {
    EXPECT_THROW(parse(good.substr(0, size)), FileError) << size;
  }
}

TEST(Pack, SaysWhatIsWrong) {
  const Scratch scratch;
  const auto message = [](const std::string& text) -> std::string {
    try {
      parse(text);
    } catch (const FileError& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message("not a pack at all, but some text of more than fifty bytes"), "P: is no kernel pack");
  write_pack(scratch / "p", some_kernels(), "13.0");
  std::string newer = read(scratch / "p");
  newer[8] = 9;
  EXPECT_EQ(message(newer), "P: is a kernel pack of version 9; this build reads version 1");
  EXPECT_THROW(KernelPack::open(scratch / "missing"), FileError);
  EXPECT_THROW(find_pack(scratch / "missing"), FileError);
}

}  // namespace
}  // namespace fathom::jit
