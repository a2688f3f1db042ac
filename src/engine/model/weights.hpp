// The weights of a model as the layers use them: views into the mapped checkpoint, named as in the paper.
#pragma once
#include <functional>
#include <vector>

#include "fathom/core/buffer.hpp"
#include "fathom/core/context.hpp"
#include "fathom/engine/checkpoint.hpp"
#include "fathom/engine/model.hpp"
#include "fathom/ops/dsa_attention.hpp"

namespace fathom {

struct MlpWeights {
  Weight gate;     // [intermediate, hidden]
  Weight up;       // [intermediate, hidden]
  Weight gate_up;  // [2 * intermediate, hidden]: both as one, given if the file has them side by side
  Weight down;     // [hidden, intermediate]
};

/// One matrix of every expert.
struct ExpertWeights {
  std::vector<TensorView> values;
  std::vector<TensorView> scales;  // empty unless the values are f8e4m3
};

struct MoeWeights {
  Weight router;               // [experts, hidden]
  TensorView correction_bias;  // [experts], not given without one
  ExpertWeights gate, up, down;
  ExpertWeights gate_up;  // as in MlpWeights; empty unless it is so for every expert
  MlpWeights shared;      // not given without shared experts
};

struct LayerWeights {
  TensorView input_norm;  // [hidden]
  DsaAttentionWeights attention;
  TensorView post_attention_norm;  // [hidden]
  bool is_moe = false;
  MlpWeights mlp;  // one of these two
  MoeWeights moe;
};

struct MtpWeights {
  TensorView embedding;  // [vocab, hidden]
  TensorView enorm;      // [hidden]
  TensorView hnorm;      // [hidden]
  Weight eh_proj;        // [hidden, 2 * hidden]
  TensorView norm;       // [hidden], of the shared head
  Weight head;           // [vocab, hidden]
};

struct ModelWeights {
  TensorView embedding;              // [vocab, hidden]
  std::vector<LayerWeights> layers;  // the MTP layer's decoder layer is the last
  TensorView norm;                   // [hidden]
  Weight head;                       // [vocab, hidden]
  MtpWeights mtp;                    // not given without an MTP layer
  std::vector<Buffer> derived;       // what the derived views point to
};

/// Throws FileError if a tensor is missing or wrong.
ModelWeights load_weights(const Checkpoint& checkpoint, Precision precision,
                          const std::function<void(double)>& on_progress, const Context& context);

}  // namespace fathom
