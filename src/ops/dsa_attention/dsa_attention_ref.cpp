// The oracle of dsa_attention: row by row, sums in double. What a step keeps is rounded as the contract says;
// the bytes of the caches are those of the ops that store them.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fathom/core/buffer.hpp"
#include "fathom/ops/index_key_store.hpp"
#include "fathom/ops/mla_cache_store.hpp"
#include "ops/cache_layout.hpp"
#include "ops/dsa_attention/dsa_attention_impl.hpp"
#include "ops/elements.hpp"
#include "ops/group_quant.hpp"

namespace fathom {
namespace {

using Row = std::vector<double>;

double rounded(DType dtype, double value) {
  const auto single = static_cast<float>(value);
  return static_cast<double>(dtype == DType::bf16 ? bf16_to_float(float_to_bf16(single)) : single);
}

/// Codes times scales, group by group of 128.
Row quantised(QuantRule rule, ScaleFormat format, const Row& row) {
  Row out;
  const auto k = static_cast<std::int64_t>(row.size());
  std::vector<std::uint8_t> q(static_cast<std::size_t>(kQuantGroup));
  for (std::int64_t begin = 0; begin < k; begin += kQuantGroup) {
    const std::int64_t n = std::min(kQuantGroup, k - begin);
    const auto load = [&](std::int64_t i) {
      return static_cast<float>(row[static_cast<std::size_t>(begin + i)]);
    };
    const float scale = quantize_group(rule, format, n, load, q.data());
    for (std::int64_t i = 0; i < n; ++i)
      out.push_back(static_cast<double>(f8e4m3_to_float(q[static_cast<std::size_t>(i)])) *
                    static_cast<double>(scale));
  }
  return out;
}

class Oracle {
 public:
  Oracle(const DsaAttentionProblem& problem, const DsaAttentionArgs& args, const Context& context)
      : p_(problem), args_(args), w_(args.weights), m_(args.metadata), context_(context) {}

  void run() {
    store();
    for (std::int64_t r = 0; !p_.store_only && r < p_.rows; ++r) row(r);
  }

 private:
  Row input(std::int64_t r) const {
    Row x;
    for (std::int64_t i = 0; i < p_.hidden; ++i) x.push_back(static_cast<double>(at(args_.x, r, i)));
    return x;
  }

  Row product(const Weight& w, const Row& x, DType round) const {
    const DType dtype = w.values.dtype;
    Row in = x;
    if (p_.compute == DType::bf16 && dtype == DType::f8e4m3)
      in = quantised(QuantRule::per_token_group, ScaleFormat::f32, x);
    if (p_.compute == DType::bf16 && dtype == DType::bf16)
      for (double& value : in) value = rounded(DType::bf16, value);
    Row out;
    for (std::int64_t j = 0; j < w.values.size(0); ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < w.values.size(1); ++i) {
        const double scale = w.scale.given() ? static_cast<double>(at(w.scale, j / 128, i / 128)) : 1.0;
        sum += in[static_cast<std::size_t>(i)] * static_cast<double>(at(w.values, j, i)) * scale;
      }
      out.push_back(rounded(round, sum));
    }
    return out;
  }

  /// out[j] = sum_i w[h, j, i] x[i]
  Row absorbed(const Weight& w, std::int64_t h, const double* x, DType round) const {
    const TensorView values = matrix_of(w.values, h);
    const TensorView scale = w.scale.given() ? matrix_of(w.scale, h) : TensorView{};
    Row out;
    for (std::int64_t j = 0; j < values.size(0); ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < values.size(1); ++i)
        sum += x[i] * static_cast<double>(at(values, j, i)) *
               (scale.given() ? static_cast<double>(at(scale, j / 128, i / 128)) : 1.0);
      out.push_back(rounded(round, sum));
    }
    return out;
  }

  void normed(double* x, std::int64_t n, const TensorView& weight, const TensorView& bias, float epsilon,
              DType round) const {
    const double mean = bias.given() ? std::accumulate(x, x + n, 0.0) / static_cast<double>(n) : 0;
    double squares = 0;
    for (std::int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double root = std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon));
    for (std::int64_t i = 0; i < n; ++i) {
      const double shift = bias.given() ? static_cast<double>(at(bias, i)) : 0;
      x[i] = rounded(round, (x[i] - mean) / root * static_cast<double>(at(weight, i)) + shift);
    }
  }

  void rotated(double* x, std::int64_t r, bool half_split, DType round) const {
    const std::int64_t half = p_.rope / 2;
    const std::int64_t position = integer_at(m_.positions, r);
    for (std::int64_t i = 0; i < half; ++i) {
      double& a = x[half_split ? i : 2 * i];
      double& b = x[half_split ? i + half : 2 * i + 1];
      const auto cos = static_cast<double>(at(args_.cos_sin, position, i));
      const auto sin = static_cast<double>(at(args_.cos_sin, position, half + i));
      const double first = a * cos - b * sin;
      b = rounded(round, b * cos + a * sin);
      a = rounded(round, first);
    }
  }

  /// By the Walsh-Hadamard matrix.
  void transformed(double* x) const {
    const std::int64_t n = p_.index_dim;
    for (std::int64_t step = 1; step < n; step *= 2) {
      for (std::int64_t i = 0; i < n; ++i) {
        if ((i & step) != 0) continue;
        const double a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
    }
    for (std::int64_t i = 0; i < n; ++i) x[i] = rounded(DType::f32, x[i] / std::sqrt(static_cast<double>(n)));
  }

  void store() const {
    Buffer memory(std::max<std::int64_t>(p_.rows, 1) * (p_.lora + p_.rope + p_.index_dim) * 4);
    const TensorView all = memory.view(DType::f32, {p_.rows, p_.lora + p_.rope + p_.index_dim});
    const auto part = [&](std::int64_t begin, std::int64_t width) {
      TensorView view = all;
      view.data = all.as<float>() + begin;
      view.shape[1] = width;
      return view;
    };
    for (std::int64_t r = 0; r < p_.rows; ++r) {
      Row kv = product(w_.kv_a, input(r), p_.inner);
      normed(kv.data(), p_.lora, w_.kv_a_norm, {}, args_.epsilon, DType::f32);
      rotated(kv.data() + p_.lora, r, /*half_split=*/false, DType::f32);
      Row k = product(w_.index_k, input(r), p_.inner);
      normed(k.data(), p_.index_dim, w_.index_k_norm, w_.index_k_norm_bias, 1e-6f, DType::f32);
      rotated(k.data(), r, /*half_split=*/true, DType::f32);
      if (p_.index == DType::u8) transformed(k.data());
      kv.insert(kv.end(), k.begin(), k.end());
      for (std::size_t i = 0; i < kv.size(); ++i)
        put(all, r, static_cast<std::int64_t>(i), static_cast<float>(kv[i]));
    }
    mla_cache_store({.latent = part(0, p_.lora),
                     .rope = part(p_.lora, p_.rope),
                     .slots = m_.slots,
                     .cache = args_.kv_cache},
                    context_);
    index_key_store({.k = part(p_.lora + p_.rope, p_.index_dim),
                     .slots = m_.slots,
                     .cache = args_.index_cache,
                     .ue8m0 = p_.ue8m0},
                    context_);
  }

  Row entry(std::int64_t slot) const {
    Row kv;
    const auto* bytes = args_.kv_cache.as<const std::uint8_t>() +
                        slot * args_.kv_cache.step(0) * size_of(args_.kv_cache.dtype);
    for (std::int64_t i = 0; i < p_.lora + p_.rope; ++i) {
      if (p_.kv != DType::u8) {
        kv.push_back(static_cast<double>(at(args_.kv_cache, slot, i)));
      } else if (i < p_.lora) {
        kv.push_back(static_cast<double>(f8e4m3_to_float(bytes[i])) *
                     static_cast<double>(load_f32(bytes + p_.lora + i / 128 * 4)));
      } else {
        const auto* at_rope = bytes + p_.lora + p_.lora / 128 * 4 + 2 * (i - p_.lora);
        kv.push_back(
            static_cast<double>(bf16_to_float(static_cast<std::uint16_t>(at_rope[0] | at_rope[1] << 8))));
      }
    }
    return kv;
  }

  double index_key(std::int64_t slot, std::int64_t i) const {
    const IndexCache cache{args_.index_cache, p_.page, p_.index_dim};
    const std::int64_t page = slot / p_.page, offset = slot % p_.page;
    if (p_.index != DType::u8) return static_cast<double>(cache.key_f32(page, offset)[i]);
    return static_cast<double>(f8e4m3_to_float(cache.key_f8(page, offset)[i])) *
           static_cast<double>(load_f32(cache.scale(page, offset)));
  }

  /// The slots that row r attends to, in ascending position.
  std::vector<std::int64_t> chosen(std::int64_t r, const Row& x, const Row& latent) const {
    const std::int64_t length = std::max<std::int64_t>(integer_at(m_.seqlens_expanded, r), 0);
    std::vector<std::int64_t> positions(static_cast<std::size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    const std::int64_t request = integer_at(m_.requests, r);
    const auto slot_of = [&](std::int64_t position) {
      return int_at(m_.block_table, request, position / p_.page) * p_.page + position % p_.page;
    };
    if (length > p_.index_topk) {
      Row q = product(w_.index_q, latent, p_.inner);
      Row scores(static_cast<std::size_t>(length), 0);
      for (std::int64_t h = 0; h < p_.index_heads; ++h) {
        double* head = q.data() + h * p_.index_dim;
        rotated(head, r, /*half_split=*/true, DType::f32);
        Row query(head, head + p_.index_dim);
        if (p_.index == DType::u8) {
          transformed(query.data());
          query = quantised(QuantRule::indexer, p_.ue8m0 ? ScaleFormat::ue8m0 : ScaleFormat::f32, query);
        }
        double gate = 0;
        for (std::int64_t i = 0; i < p_.hidden; ++i) {
          const bool exact = p_.compute == DType::f32 || w_.head_gate.dtype == DType::f32;
          const double value = x[static_cast<std::size_t>(i)];
          gate += (exact ? value : rounded(DType::bf16, value)) * static_cast<double>(at(w_.head_gate, h, i));
        }
        for (std::int64_t s = 0; s < length; ++s) {
          double dot = 0;
          for (std::int64_t i = 0; i < p_.index_dim; ++i)
            dot += query[static_cast<std::size_t>(i)] * index_key(slot_of(s), i);
          scores[static_cast<std::size_t>(s)] += gate * std::max(dot, 0.0);
        }
      }
      std::stable_sort(positions.begin(), positions.end(), [&](std::int64_t a, std::int64_t b) {
        return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
      });
      positions.resize(static_cast<std::size_t>(p_.index_topk));
      std::sort(positions.begin(), positions.end());
    }
    for (std::int64_t& position : positions) position = slot_of(position);
    return positions;
  }

  void row(std::int64_t r) const {
    const Row x = input(r);
    Row latent = product(w_.q_a, x, p_.inner);
    normed(latent.data(), p_.q_lora, w_.q_a_norm, {}, args_.epsilon, p_.inner);
    Row q = product(w_.q_b, latent, p_.inner);
    std::vector<Row> entries;
    for (const std::int64_t slot : chosen(r, x, latent)) entries.push_back(entry(slot));
    Row values;
    for (std::int64_t h = 0; h < p_.heads; ++h) {
      double* head = q.data() + h * (p_.nope + p_.rope);
      rotated(head + p_.nope, r, /*half_split=*/false, p_.inner);
      for (std::int64_t i = 0; i < p_.nope; ++i) head[i] = rounded(p_.compute, head[i]);
      const DType query_dtype = p_.kv == DType::f32 ? DType::f32 : p_.compute;
      Row query = absorbed(w_.w_uk, h, head, query_dtype);
      for (std::int64_t i = 0; i < p_.rope; ++i) query.push_back(rounded(query_dtype, head[p_.nope + i]));
      const Row o = attended(query, entries);
      const Row value = absorbed(w_.w_uv, h, o.data(), p_.inner);
      values.insert(values.end(), value.begin(), value.end());
    }
    const Row out = product(w_.o, values, DType::f32);
    for (std::int64_t i = 0; i < p_.hidden; ++i) {
      const double before = p_.accumulate ? static_cast<double>(at(args_.out, r, i)) : 0;
      put(args_.out, r, i, static_cast<float>(before + out[static_cast<std::size_t>(i)]));
    }
  }

  Row attended(const Row& query, const std::vector<Row>& entries) const {
    Row scores;
    double most = -HUGE_VAL, sum = 0;
    for (const Row& kv : entries) {
      const double dot = std::inner_product(query.begin(), query.end(), kv.begin(), 0.0);
      scores.push_back(dot * static_cast<double>(args_.softmax_scale));
      most = std::max(most, scores.back());
    }
    Row out(static_cast<std::size_t>(p_.lora), 0);
    for (double& score : scores) sum += score = std::exp(score - most);
    for (std::size_t j = 0; j < entries.size(); ++j)
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += scores[j] / sum * entries[j][i];
    for (double& value : out) value = rounded(p_.compute, value);
    return out;
  }

  const DsaAttentionProblem& p_;
  const DsaAttentionArgs& args_;
  const DsaAttentionWeights& w_;
  const DsaMetadata& m_;
  const Context& context_;
};

}  // namespace

void dsa_attention_ref(const DsaAttentionProblem& problem, const DsaAttentionArgs& args,
                       const Context& context) {
  Oracle(problem, args, context).run();
}

}  // namespace fathom
