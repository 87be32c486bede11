// Lets autograd run on fake CUDA tensors in a build of torch without CUDA: it asks for the stream of
// each device and for the accelerator of the build, and gets one with nothing behind it.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <new>

namespace {
constexpr auto kCUDA = c10::DeviceType::CUDA;

const c10::Device kDevice{kCUDA, 0};
const c10::Stream kStream{c10::Stream::DEFAULT, kDevice};

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kCUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return kStream; }
  c10::Stream getNewStream(c10::Device, int) const override { return kStream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return kStream; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::CUDAHooksInterface {
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
}  // namespace

extern "C" void pretend() {
  static Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(kCUDA)].store(&guard);
  // The hooks of this build have no state, only answers: replace them in place.
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks;
}
