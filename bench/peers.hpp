// Peers: what other libraries need for the same problems on one kind of device, from a file that was measured
// once (bench/peers/h200.json, which is built in).
#pragma once
#include <map>
#include <string>
#include <string_view>

namespace fathom {

struct PeerFloor {
  double bytes_per_second = 0;
  double fp8_flops_per_second = 0;
  double bf16_flops_per_second = 0;
};

class Peers {
 public:
  /// None of them.
  Peers() = default;
  /// Throws FileError "origin: ..." if the text is not of this form.
  Peers(std::string_view json, std::string_view origin);
  /// bench/peers/h200.json
  static Peers built_in();

  /// The device's name; figures hold for devices whose name contains it.
  const std::string& device() const { return device_; }
  const std::string& method() const { return method_; }
  const PeerFloor& floor() const { return floor_; }
  /// Microseconds by library; empty if nobody was measured. The class of a call (`decode`) and `aligned` are
  /// ours alone and not looked at.
  const std::map<std::string, double>& find(const std::string& canonical) const;
  std::size_t size() const { return rows_.size(); }

 private:
  std::string device_;
  std::string method_;
  PeerFloor floor_;
  std::map<std::string, std::map<std::string, double>> rows_;
};

}  // namespace fathom
