#include "ops/dispatch.hpp"

#include "core/option_names.hpp"

namespace fathom {

namespace detail {
bool forced(const Context& context, std::string_view op, std::string& name) {
  const std::string_view text = context.options().force_implementation;
  const auto equals = text.find('=');
  if (equals != std::string_view::npos) {
    name = text.substr(equals + 1);
    return text.substr(0, equals) == op;
  }
  // Without an op the name speaks of every op that has it.
  name = text;
  for (const OpInfo* info : all_ops()) {
    if (info->name != op) continue;
    for (const std::string_view implementation : info->implementations) {
      if (implementation == name) return true;
    }
  }
  return false;
}

std::string other_device(DeviceKind needed, Device given) {
  return std::string("needs tensors ") +
         (needed == DeviceKind::host ? "in host memory" : "of a CUDA device") + ", the context's device is " +
         to_string(given);
}
}  // namespace detail
}  // namespace fathom
