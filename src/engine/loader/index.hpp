// model.safetensors.index.json: which shard holds which tensor.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::safetensors {

struct Index {
  std::vector<std::string> shards;                            ///< file names, in order of appearance
  std::vector<std::pair<std::string, std::int32_t>> tensors;  ///< name, row of shards
};

/// Throws FileError starting with `origin` if the text is no such index, names a tensor twice, or names a
/// shard that is not a plain file name.
Index parse_index(std::string_view text, std::string_view origin);

}  // namespace fathom::safetensors
