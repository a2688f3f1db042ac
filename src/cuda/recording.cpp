#include "cuda/recording.hpp"

namespace fathom::cuda {

GraphHandle recorded_graph(const Context& context) {
  const StreamHandle stream = stream_of(context);
  if (stream == nullptr) return nullptr;
  const Driver& driver = device_context(context).driver();
  constexpr std::string_view kDoing = "asking whether a stream records a graph";
  int status = kCaptureStatusNone;
  driver.check(driver.cuStreamIsCapturing(stream, &status), "cuStreamIsCapturing", kDoing);
  if (status == kCaptureStatusNone) return nullptr;
  std::uint64_t id = 0;
  GraphHandle graph = nullptr;
  const GraphNodeHandle* nodes = nullptr;  // edges that carry data are refused to who does not ask for all
  const GraphEdgeData* edges = nullptr;
  std::size_t count = 0;
  driver.check(driver.cuStreamGetCaptureInfo_v3(stream, &status, &id, &graph, &nodes, &edges, &count),
               "cuStreamGetCaptureInfo_v3", kDoing);
  return graph;
}

void keep_with(GraphHandle graph, std::shared_ptr<const void> value, const Context& context) {
  const Driver& driver = device_context(context).driver();
  constexpr std::string_view kDoing = "keeping something with a recorded graph";
  auto kept = std::make_unique<std::shared_ptr<const void>>(std::move(value));
  const auto let_go = [](void* all) { delete static_cast<std::shared_ptr<const void>*>(all); };
  UserObjectHandle object = nullptr;
  driver.check(driver.cuUserObjectCreate(&object, kept.get(), let_go, 1, kUserObjectNoDestructorSync),
               "cuUserObjectCreate", kDoing);
  kept.release();  // the object's now
  const Result status = driver.cuGraphRetainUserObject(graph, object, 1, kGraphUserObjectMove);
  if (status != kSuccess) driver.cuUserObjectRelease(object, 1);
  driver.check(status, "cuGraphRetainUserObject", kDoing);
}

}  // namespace fathom::cuda
