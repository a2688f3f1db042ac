// DecoderLayer: one layer of the model over one batch. layer.cpp reads like the paper.
#pragma once
#include <functional>

#include "engine/cache/batch_metadata.hpp"
#include "engine/model/arena.hpp"
#include "engine/model/linear.hpp"
#include "engine/model/weights.hpp"
#include "fathom/core/context.hpp"

namespace fathom {

/// What a layer decided, for those who want to watch: tests, mostly.
struct LayerObserver {
  /// The residual stream [rows, hidden] behind a layer.
  std::function<void(std::int64_t layer, const TensorView& x)> on_hidden;
  /// The slots [rows, k] that rows attend to, and the scores [rows, keys] they come from: of the keys of all
  /// requests laid end to end in mode extend, else of the row's own request. Not given if every row sees all.
  std::function<void(std::int64_t layer, const TensorView& scores, const TensorView& selected)> on_selection;
};

/// What does not change from step to step.
struct LayerConstants {
  const ModelConfig& config;
  Precision precision;
  bool index_fp8;       // index keys are rotated and quantised,
  bool index_ue8m0;     // with scales that are powers of two
  float softmax_scale;  // of the main attention
  float epsilon;
};

class DecoderLayer {
 public:
  DecoderLayer(const LayerConstants& constants, const LayerWeights& weights, std::int64_t index,
               const BatchMetadata& batch, const KvCache& cache, const TensorView& rope_table, Arena& arena,
               const Context& context, const LayerObserver* observer, std::int64_t& weight_bytes)
      : constants_(constants),
        config_(constants.config),
        w_(weights),
        index_(index),
        batch_(batch),
        cache_(cache),
        rope_table_(rope_table),
        arena_(arena),
        context_(context),
        observer_(observer),
        linear_(constants.precision, arena, context, weight_bytes) {}

  /// x [rows, hidden] f32, the residual stream: read and written. `visible` [rows, k] are the slots of every
  /// row's positions if no row sees more than index_topk.
  void run(const TensorView& x, const TensorView& visible);
  /// Only writes the caches.
  void store(const TensorView& x);

 private:
  void attention(const TensorView& x, const TensorView& visible, const TensorView& out);
  // `in` by value: what is prepared inside goes with the arena scope inside.
  void mlp(const MlpWeights& w, Activation in, const TensorView& x);
  void moe(const MoeWeights& w, Activation& in, const TensorView& x);
  Activation normed(const TensorView& x, const TensorView& weight);

  const LayerConstants& constants_;
  const ModelConfig& config_;
  const LayerWeights& w_;
  std::int64_t index_;
  const BatchMetadata& batch_;
  const KvCache& cache_;
  TensorView rope_table_;  // [positions, rope_dim]
  Arena& arena_;
  const Context& context_;
  const LayerObserver* observer_;
  Linear linear_;
};

}  // namespace fathom
