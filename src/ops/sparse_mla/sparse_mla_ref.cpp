#include <cmath>
#include <limits>
#include <vector>

#include "ops/cache_layout.hpp"
#include "ops/elements.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

// The cache entry of a slot, dequantised.
std::vector<double> entry_at(const SparseMlaProblem& problem, const TensorView& cache, std::int64_t slot) {
  const std::int64_t lora = problem.lora;
  std::vector<double> entry(static_cast<std::size_t>(lora + problem.rope_dim));
  const auto* bytes = cache.as<const std::uint8_t>() + slot * cache.step(0);
  for (std::int64_t i = 0; i < lora + problem.rope_dim; ++i) {
    double& value = entry[static_cast<std::size_t>(i)];
    if (problem.cache != DType::u8) {
      value = static_cast<double>(at(cache, slot, i));
    } else if (i < lora) {
      value = static_cast<double>(f8e4m3_to_float(bytes[i])) *
              static_cast<double>(load_f32(bytes + lora + i / 128 * 4));
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, bytes + lora + lora / 128 * 4 + 2 * (i - lora), sizeof bits);
      value = static_cast<double>(bf16_to_float(bits));
    }
  }
  return entry;
}

}  // namespace

void sparse_mla_ref(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context) {
  const bool rounds_q = problem.cache != DType::f32;
  context.parallel_for(problem.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::vector<std::vector<double>> entries;
      for (std::int64_t j = 0; j < sparse_mla_length(args, t); ++j)
        if (const std::int32_t slot = int_at(args.indices, t, j); slot >= 0)
          entries.push_back(entry_at(problem, args.cache, slot));
      for (std::int64_t h = 0; h < problem.heads; ++h) {
        std::vector<double> weights;
        double highest = -std::numeric_limits<double>::infinity();
        for (const auto& entry : entries) {
          double dot = 0;
          for (std::size_t d = 0; d < entry.size(); ++d) {
            const float q = at(args.q, t, h, static_cast<std::int64_t>(d));
            dot += static_cast<double>(rounds_q ? bf16_to_float(float_to_bf16(q)) : q) * entry[d];
          }
          weights.push_back(dot * static_cast<double>(args.softmax_scale));
          highest = std::max(highest, weights.back());
        }
        double total = 0;
        for (double& weight : weights) total += weight = std::exp(weight - highest);
        if (args.lse.given()) {
          args.lse.as<float>()[t * args.lse.step(0) + h] =
              static_cast<float>(entries.empty() ? highest : highest + std::log(total));
        }
        if (args.sink.given() && !entries.empty())
          total += std::exp(static_cast<double>(args.sink.as<const float>()[h]) - highest);
        for (std::int64_t d = 0; d < problem.lora; ++d) {
          double sum = 0;
          for (std::size_t j = 0; j < entries.size(); ++j)
            sum += weights[j] * entries[j][static_cast<std::size_t>(d)];
          store_element(args.out.data, problem.out,
                        t * args.out.step(0) + h * args.out.step(1) + d * args.out.step(2),
                        static_cast<float>(entries.empty() ? 0 : sum / total));
        }
      }
    }
  });
}

}  // namespace fathom
