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

}  // namespace
}  // namespace fathom
