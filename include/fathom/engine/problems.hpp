// The problems that a model puts to the ops with device code: what kernel packs and warm-ups are made for.
#pragma once
#include <string>
#include <vector>

#include "fathom/engine/config.hpp"

namespace fathom {

/// Problem strings of every matrix product of the model, for numbers of rows from one token to a long chunk.
/// A problem per product and number of rows: a set that finds every kernel, not a list of calls.
std::vector<std::string> model_problems(const ModelConfig& config);

/// The same for DeepSeek-V3.2 itself, and its matrix shapes as other stacks cut and fuse them.
std::vector<std::string> deepseek_v32_problems();

}  // namespace fathom
