// What kernel packs and warm-ups hold for sparse attention: without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fathom/engine/problems.hpp"
#include "fathom/ops/dsa_attention.hpp"
#include "ops/kernels.hpp"

namespace fathom {
namespace {

std::set<std::string> names(std::span<const std::string> problems) {
  std::set<std::string> result;
  for (const jit::Source& source : kernel_sources(problems, usual_device("sm_90a")))
    result.insert(source.name);
  return result;
}

// Whatever the mode, the batch, the drafts and the context, nothing is left to compile.
TEST(DsaKernels, OfTheModelAreThoseOfItsLayers) {
  const std::vector<std::string> model = deepseek_v32_problems();
  const std::set<std::string> listed = names(model);
  const auto expect_listed = [&](const DsaAttentionProblem& p) {
    const std::string one[] = {problem_string(p)};
    for (const std::string& name : names(one)) EXPECT_TRUE(listed.contains(name)) << name << " of " << one[0];
  };
  for (const std::int64_t context : {2000, 2049, 5000, 16000, 17000, 40000, 70000, 160000}) {
    DsaAttentionProblem p{.max_seqlen_k = context};
    for (const std::int64_t batch : {1, 3, 5, 17, 23, 60, 100, 133, 300}) {
      p.batch = batch;
      for (std::int64_t next_n = 1; next_n <= 8; ++next_n) {
        p.mode = next_n == 1 ? ForwardMode::decode : ForwardMode::target_verify;
        p.rows = batch * next_n;
        expect_listed(p);
      }
      p.mode = ForwardMode::draft_extend;
      p.packed = true;
      expect_listed(p);
      p.packed = false;
    }
    for (const std::int64_t rows : {1, 100, 1000, 5000}) {
      p.mode = ForwardMode::extend;
      p.batch = 2;
      p.rows = rows;
      p.keys = 2 * std::max(context, rows);
      expect_listed(p);
    }
  }
}

// Scores of the last rows may suit another kernel than those of the many before them.
TEST(DsaKernels, OfTheLastRowsAreListed) {
  const auto kernels = [](const DsaAttentionProblem& p) {
    const std::string one[] = {problem_string(p)};
    return names(one);
  };
  for (const ForwardMode mode : {ForwardMode::decode, ForwardMode::extend}) {
    // So many are too many for Hopper's kernel; 10 of them are left at the end.
    const std::int64_t most = mode == ForwardMode::decode ? 5000 : 40000;
    DsaAttentionProblem p{.mode = mode, .batch = most + 10, .rows = most + 10, .max_seqlen_k = 4096};
    if (mode == ForwardMode::extend) p.batch = 1, p.keys = 4096;
    p.score_bytes = most * 4096 * 4;
    const std::set<std::string> all = kernels(p);
    p.rows = 10;
    p.batch = mode == ForwardMode::decode ? 10 : 1;
    std::string scores = mode == ForwardMode::decode ? "paged_mqa_logits.sm90" : "mqa_logits.sm90";
    int found = 0;
    for (const std::string& name : kernels(p)) {
      if (!name.starts_with(scores)) continue;
      ++found;
      EXPECT_TRUE(all.contains(name)) << name;
    }
    EXPECT_EQ(found, 1);
  }
}

// Whoever asks for the kernels of a step without rows gets some.
TEST(DsaKernels, OfNoRows) {
  const std::string one[] = {problem_string(
      DsaAttentionProblem{.mode = ForwardMode::target_verify, .batch = 3, .rows = 0, .max_seqlen_k = 4096})};
  EXPECT_FALSE(names(one).empty());
}

}  // namespace
}  // namespace fathom
