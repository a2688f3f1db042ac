#include "ops/dispatch.hpp"

#include "core/option_names.hpp"
#include "cuda/device_context.hpp"

namespace fathom {

namespace {

// Whether one entry of the list speaks of this op.
bool speaks_of(std::string_view text, std::string_view op, std::string& name) {
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

}  // namespace

namespace detail {
bool forced(const Context& context, std::string_view op, std::string& name) {
  std::string_view list = context.options().force_implementation;
  while (!list.empty()) {
    if (speaks_of(next_of_list(list), op, name)) return true;
  }
  return false;
}

std::string other_device(DeviceKind needed, Device given) {
  return std::string("needs tensors ") +
         (needed == DeviceKind::host ? "in host memory" : "of a CUDA device") + ", the context's device is " +
         to_string(given);
}

Verdict old_device(const Context& context) {
  const cuda::DeviceInfo& device = cuda::device_context(context).info();
  if (device.sm_major >= 8) return accept;
  return decline("needs compute capability 8.0 or above, got " + std::to_string(device.sm_major) + "." +
                 std::to_string(device.sm_minor));
}
}  // namespace detail
}  // namespace fathom
