// What a Model holds.
#pragma once
#include "engine/model/layer.hpp"
#include "engine/model/weights.hpp"
#include "fathom/engine/checkpoint.hpp"
#include "fathom/engine/model.hpp"
#include "fathom/ops/rope.hpp"

namespace fathom {

struct Model::Impl {
  Impl(Checkpoint file, const ModelOptions& options, const Context& context);

  Checkpoint checkpoint;
  KvFormat kv_format;
  RopeConfig rope;
  LayerConstants constants;
  ModelWeights weights;
};

}  // namespace fathom
