#include "peers.hpp"

#include <nlohmann/json.hpp>

#include "core/json.hpp"
#include "fathom/core/error.hpp"
#include "problem_list.hpp"

namespace fathom {

// Generated from bench/peers/h200.json.
extern const std::string_view kPeersH200;

namespace {

// The problem without the keys that say how we compute it rather than what.
std::string peer_key(const std::string& canonical) {
  const auto colon = canonical.find(':');
  std::string key = canonical.substr(0, colon + 1);
  std::size_t begin = colon + 1;
  while (colon != std::string::npos && begin < canonical.size()) {
    const std::size_t end = std::min(canonical.find(',', begin), canonical.size());
    const std::string_view field = std::string_view(canonical).substr(begin, end - begin);
    if (!field.starts_with("decode=") && !field.starts_with("aligned=")) key.append(field).append(",");
    begin = end + 1;
  }
  return key;
}

}  // namespace

Peers::Peers(std::string_view text, std::string_view origin) {
  const Json json = parse_json(text, origin);
  try {
    device_ = json.at("device").get<std::string>();
    method_ = json.at("method").get<std::string>();
    const Json& floor = json.at("floor");
    floor_ = {.bytes_per_second = floor.at("bytes_per_second").get<double>(),
              .fp8_flops_per_second = floor.at("fp8_flops_per_second").get<double>(),
              .bf16_flops_per_second = floor.at("bf16_flops_per_second").get<double>()};
    for (const Json& row : json.at("rows")) {
      if (row.contains("needs")) continue;  // a problem string does not say all of it
      const std::string key = peer_key(canonical_problem(row.at("problem").get<std::string>()));
      if (!rows_.try_emplace(key, row.at("us").get<std::map<std::string, double>>()).second)
        throw FileError(std::string(origin) + ": has " + key + " twice");
    }
  } catch (const nlohmann::json::exception& error) {
    throw FileError(std::string(origin) + ": " + error.what());
  } catch (const InvalidArgument& error) {
    throw FileError(std::string(origin) + ": " + error.what());
  }
}

Peers Peers::built_in() { return {kPeersH200, "bench/peers/h200.json"}; }

const std::map<std::string, double>& Peers::find(const std::string& canonical) const {
  static const std::map<std::string, double> none;
  const auto found = rows_.find(peer_key(canonical));
  return found == rows_.end() ? none : found->second;
}

}  // namespace fathom
