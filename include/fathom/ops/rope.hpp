// Rotary position embedding, and the table of its angles.
#pragma once
#include <optional>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/problem.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom {

/// Which elements form a pair: i and i + rope_dim/2 (the indexer), or 2i and 2i+1 (MLA).
enum class RopeStyle : std::uint8_t { half_split, interleaved };
std::string_view to_string(RopeStyle style);
bool parse_enum(std::string_view text, RopeStyle& style);

struct RopeProblem {
  static constexpr std::string_view op = "rope";
  std::int64_t tokens = 1;
  std::int64_t heads = 8;
  std::int64_t dim = 192;
  std::int64_t rope_dim = 64;
  std::int64_t offset = 128;
  RopeStyle style = RopeStyle::interleaved;
  DType x = DType::f32;

  template <class V>
  void fields(V& visit) {
    visit("tokens", tokens);
    visit("heads", heads);
    visit("dim", dim);
    visit("rope_dim", rope_dim);
    visit("offset", offset);
    visit("style", style);
    visit("x", x);
  }
  bool operator==(const RopeProblem&) const = default;
};

struct RopeArgs {
  TensorView x;             // [tokens, heads, dim], rotated in place
  TensorView positions;     // [tokens]
  TensorView cos_sin;       // [max_positions, rope_dim]
  std::int64_t offset = 0;  // first rotated element of a head
  RopeStyle style = RopeStyle::interleaved;
};

/// Rotates elements [offset, offset + rope_dim) of every head, in place.
///
///   (a, b) -> (a * cos - b * sin, b * cos + a * sin)   for every pair, in f32, products rounded separately
///
///   x          [tokens, heads, dim]       f32 or bf16; any strides but 1 on the last axis
///   positions  [tokens]                   i32 or i64, within the table
///   cos_sin    [max_positions, rope_dim]  f32: rope_dim/2 cosines, then rope_dim/2 sines; see
///   make_rope_table
///
/// Throws InvalidArgument if a shape or dtype differs, the rotated elements leave the head, or a position is
/// not in the table. On a device, where positions are not looked at, such a token stays as it is.
void rope(const RopeArgs& args, const Context& context);

/// The rotation of a model. With `yarn` the frequencies are stretched and the table is scaled as Hugging Face
/// transformers does for DeepSeek-V3 and V3.2.
struct RopeConfig {
  std::int64_t dim = 64;  // qk_rope_head_dim
  double theta = 10000;
  bool yarn = false;  // the rest is of rope_scaling, and unused without it
  double factor = 1;
  std::int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;          // 0: not in the file
  double mscale_all_dim = 0;  // 0: not in the file
  std::optional<double> attention_factor;
};

/// Rows [0, positions) of the cos_sin table, f32 [positions, dim].
/// Throws InvalidArgument if a field means nothing (odd dim, theta or factor not positive, ...).
Buffer make_rope_table(const RopeConfig& config, std::int64_t positions);

/// 0.1 * mscale * ln(factor) + 1, and 1 for factors up to 1.
double yarn_mscale(double factor, double mscale);

/// head_dim^-0.5, with yarn times yarn_mscale(factor, mscale_all_dim)^2 if the file gives mscale_all_dim.
/// head_dim is the width of a whole query head: qk_nope_head_dim + qk_rope_head_dim.
double attention_softmax_scale(const RopeConfig& config, std::int64_t head_dim);

}  // namespace fathom
