// Any text is either refused with a FileError of one line or gives sizes that can be multiplied.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto config = fathom::ModelConfig::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (config.layer_count() < 1 || config.hidden_size < 1 ||
        config.num_attention_heads * config.qk_head_dim() < 2) {
      std::abort();
    }
    if (config.n_routed_experts > 0 && config.n_routed_experts % config.n_group != 0) std::abort();
  } catch (const fathom::FileError& error) {
    const std::string_view message(error.what());
    if (message.find('\n') != message.npos || message.size() > 1000) std::abort();
  }
  return 0;
}
