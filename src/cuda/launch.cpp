#include "cuda/launch.hpp"

#include <string>

namespace fathom::cuda {
namespace {
std::string text(Dim3 d) {
  return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
}

thread_local LaunchNames* t_names = nullptr;

}  // namespace

LaunchNames::LaunchNames() { t_names = this; }
LaunchNames::~LaunchNames() { t_names = nullptr; }

void launch_kernel(FunctionHandle function, const char* name, const LaunchConfig& config,
                   const Context& context, void** parameters) {
  if (t_names != nullptr) [[unlikely]]
    t_names->add(name);
  const DeviceContext& device = device_context(context);
  LaunchAttribute attributes[2]{};
  LaunchConfigRecord record{config.grid.x,
                            config.grid.y,
                            config.grid.z,
                            config.block.x,
                            config.block.y,
                            config.block.z,
                            static_cast<unsigned>(config.shared_bytes),
                            stream_of(context),
                            attributes,
                            0};
  if (!(config.cluster == Dim3{})) {
    LaunchAttribute& attribute = attributes[record.attribute_count++];
    attribute.id = kLaunchClusterDimension;
    attribute.value.cluster = config.cluster;
  }
  if (config.pdl) {
    LaunchAttribute& attribute = attributes[record.attribute_count++];
    attribute.id = kLaunchProgrammaticStreamSerialization;
    attribute.value.programmatic_stream_serialization = 1;
  }
  const Current current(device);
  const Result status = device.driver().cuLaunchKernelEx(&record, function, parameters, nullptr);
  if (status != kSuccess) [[unlikely]] {
    device.driver().fail(status, "cuLaunchKernelEx",
                         "launching " + std::string(name) + " with grid " + text(config.grid) + ", block " +
                             text(config.block) + ", cluster " + text(config.cluster) + ", " +
                             std::to_string(config.shared_bytes) + " bytes of shared memory");
  }
}

}  // namespace fathom::cuda
