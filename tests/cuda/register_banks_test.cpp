// The FP8 products' fused multiply-adds and the register banks they read from. A multiprocessor of Hopper
// has two banks, registers of even and of odd number, and reads two operands of a bank in a cycle: a
// multiply-add with all three in one bank takes a cycle more. The assembler places registers; an unrelated
// edit once put every sum beside its product, and the FP8 prefill kernel got 8 % slower with the same
// instructions. So this looks at the machine code.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/engine/problems.hpp"
#include "jit/kernel_cache.hpp"
#include "jit/nvrtc.hpp"
#include "ops/kernels.hpp"

namespace fathom {
namespace {

struct MultiplyAdds {
  int all = 0;
  int in_one_bank = 0;  // all three operands
};

// Of sm_70 to sm_90 machine code: 16 bytes an instruction, its kind in the 12 low bits. Kind 0x223 multiplies
// and adds f32 registers: operands at bits 24, 32 and 64, eight bits each. Operands kept from the instruction
// before (the reuse flags, bits 122 to 124) are read from no bank; they are counted all the same, as keeping
// them is a matter of order.
MultiplyAdds count_multiply_adds(std::span<const std::byte> code) {
  constexpr std::size_t kInstruction = 16;
  constexpr std::uint64_t kFfma = 0x223;
  MultiplyAdds count;
  for (; code.size() >= kInstruction; code = code.subspan(kInstruction)) {
    std::uint64_t words[2];
    std::memcpy(words, code.data(), sizeof words);
    if ((words[0] & 0xfff) != kFfma) continue;
    const std::uint64_t a = words[0] >> 24 & 1;
    const std::uint64_t b = words[0] >> 32 & 1;
    const std::uint64_t c = words[1] & 1;
    ++count.all;
    if (a == b && b == c) ++count.in_one_bank;
  }
  return count;
}

template <class T>
T read_at(std::span<const std::byte> bytes, std::size_t offset) {
  T value{};
  EXPECT_LE(offset + sizeof value, bytes.size()) << "not an ELF file of 64 bits";
  if (offset + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// The machine code in a cubin, which is an ELF file: its sections whose names begin with ".text.".
MultiplyAdds count_multiply_adds(const jit::Cubin& cubin) {
  const std::span<const std::byte> file(cubin.bytes);
  const auto headers = read_at<std::uint64_t>(file, 0x28);
  const auto header_bytes = read_at<std::uint16_t>(file, 0x3a);
  const auto sections = read_at<std::uint16_t>(file, 0x3c);
  const auto names_section = read_at<std::uint16_t>(file, 0x3e);
  const auto header = [&](std::size_t section) { return headers + section * header_bytes; };
  const auto names = read_at<std::uint64_t>(file, header(names_section) + 0x18);
  MultiplyAdds total;
  for (std::size_t section = 0; section < sections; ++section) {
    const auto name = names + read_at<std::uint32_t>(file, header(section));
    const auto start = read_at<std::uint64_t>(file, header(section) + 0x18);
    const auto bytes = read_at<std::uint64_t>(file, header(section) + 0x20);
    constexpr std::string_view kText = ".text.";
    if (name + kText.size() > file.size() || std::memcmp(file.data() + name, kText.data(), kText.size()) != 0)
      continue;
    const MultiplyAdds here = count_multiply_adds(file.subspan(start, bytes));
    total.all += here.all;
    total.in_one_bank += here.in_one_bank;
  }
  return total;
}

TEST(RegisterBanks, InstructionsAreRead) {
  const std::uint64_t two_banks[] = {0x000000c580c27223, 0x000fc200000000c2};  // FFMA R194, R128, R197, R194
  const std::uint64_t one_bank[] = {0x000000c581c17223,
                                    0x080fe200000000c1};  // FFMA R193, R129, R197.reuse, R193
  const MultiplyAdds two = count_multiply_adds(std::as_bytes(std::span(two_banks)));
  EXPECT_EQ(two.all, 1);
  EXPECT_EQ(two.in_one_bank, 0);
  const MultiplyAdds one = count_multiply_adds(std::as_bytes(std::span(one_bank)));
  EXPECT_EQ(one.all, 1);
  EXPECT_EQ(one.in_one_bank, 1);
  const jit::Source source{"one",
                           "extern \"C\" __global__ void fathom_kernel(float* x) {\n"
                           "  x[0] = __fmaf_rn(x[1], x[2], x[3]);\n}\n"};
  EXPECT_EQ(count_multiply_adds(jit::compile(source, "sm_90a", jit::nvrtc())).all, 1);
}

#ifndef __SANITIZE_ADDRESS__  // the compiler does not change with our sanitizers; its cost does
TEST(RegisterBanks, OfTheProductsAreMixed) {
  // 2026-11-23, NVRTC 13.0: none but in the kernel with two blocks of sums in flight and registers used up,
  // which has been measured so.
  const std::map<std::string, int> most = {{"gemm.sm90_prefill_f8e4m3_m128n128s6c1x1", 48}};
  const cuda::Nvrtc& nvrtc = jit::nvrtc();
  if (nvrtc.major != 13 || nvrtc.minor != 0)
    GTEST_SKIP() << "the counts are those of NVRTC 13.0, not of " << nvrtc.major << "." << nvrtc.minor;
  // Pairs in the epilogue's stores put 64 of the 128 multiply-adds of the largest tile in one bank, and four
  // sums that leave together half of those of the decode kernel: this failed.
  std::vector<jit::Source> sources = kernel_sources(deepseek_v32_problems(), usual_device("sm_90a"));
  std::erase_if(sources, [](const jit::Source& source) {
    return source.name.find("gemm.sm90_prefill_f8e4m3") == std::string::npos &&
           source.name.find("gemm.sm90_activated_f8e4m3") == std::string::npos &&
           source.name.find("gemm.sm90_decode_f8e4m3") == std::string::npos;
  });
  EXPECT_GT(sources.size(), 16u);
  std::vector<MultiplyAdds> counts(sources.size());
  jit::on_all_cores(sources.size(), 2, [&](std::size_t i) {
    counts[i] = count_multiply_adds(jit::compile(sources[i], "sm_90a", nvrtc));
  });
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const auto known = most.find(sources[i].name);
    EXPECT_GT(counts[i].all, 0) << sources[i].name;
    EXPECT_LE(counts[i].in_one_bank, known == most.end() ? 0 : known->second)
        << sources[i].name << " of " << counts[i].all
        << ": time it before this number is raised (docs/performance_hopper.md, register banks)";
  }
}
#endif

}  // namespace
}  // namespace fathom
