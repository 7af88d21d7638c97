// An accelerator that is none: its memory is the machine's, its kernels are the CPU's. What it is for: like Apple's and
// some of Intel's GPUs it has no float64, and like all it takes no tensors of another device into a call.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>

#include <atomic>

namespace {

using namespace at;

const auto kToy = DeviceType::PrivateUse1;
std::atomic<int64_t> in_use{0}, peak{0};

struct Block {
  void* place;
  int64_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  in_use -= block->bytes;
  c10::free_cpu(block->place);
  delete block;
}

struct ToyAllocator final : c10::Allocator {
  DataPtr allocate(size_t bytes) override {
    auto* block = new Block{c10::alloc_cpu(bytes ? bytes : 1), static_cast<int64_t>(bytes)};
    in_use += block->bytes;
    peak = std::max(peak.load(), in_use.load());
    return {block->place, block, &release, Device(kToy, 0)};
  }
  DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

ToyAllocator allocator;

struct ToyGuard final : c10::impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = DeviceType::PrivateUse1;
  DeviceType type() const override { return kToy; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Device getDevice() const override { return Device(kToy, 0); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};

struct ToyGenerator : CPUGeneratorImpl {
  ToyGenerator() : CPUGeneratorImpl(0) {
    device_ = Device(kToy, 0);
    key_set_ = DispatchKeySet(DispatchKey::PrivateUse1);
  }
};

struct ToyHooks : PrivateUse1HooksInterface {
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static Generator own = make_generator<ToyGenerator>();
    return own;
  }
  Generator getNewGenerator(DeviceIndex) const override { return make_generator<ToyGenerator>(); }
  bool isPinnedPtr(const void*) const override { return false; }
};

ScalarType checked(ScalarType dtype, const std::string& where) {
  TORCH_CHECK(dtype != ScalarType::Double, "the toy has no float64: ", where);
  return dtype;
}

Tensor toy_empty(
    IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device>,
    std::optional<bool>, std::optional<MemoryFormat> format) {
  auto own = checked(dtype_or_default(dtype), "empty");
  return at::detail::empty_generic(size, &allocator, DispatchKeySet(DispatchKey::PrivateUse1), own, format);
}

Tensor toy_empty_strided(
    IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<Layout>,
    std::optional<Device>, std::optional<bool>) {
  auto own = checked(dtype_or_default(dtype), "empty_strided");
  return at::detail::empty_strided_generic(size, stride, &allocator, DispatchKeySet(DispatchKey::PrivateUse1), own);
}

// The same memory, under the CPU's name.
Tensor on_cpu(const Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  return from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), TensorOptions().dtype(tensor.scalar_type()));
}

Tensor toy_copy_from(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor toy_copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Scalar toy_local_scalar(const Tensor& tensor) { return on_cpu(tensor).item(); }

const Tensor& toy_resize(const Tensor& tensor, SymIntArrayRef size, std::optional<MemoryFormat>) {
  native::resize_impl_cpu_(tensor.unsafeGetTensorImpl(), C10_AS_INTARRAYREF_SLOW(size), std::nullopt);
  return tensor;
}

Tensor toy_view(const Tensor& tensor, IntArrayRef size) { return native::view(tensor, size); }

Tensor toy_as_strided(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return native::as_strided_tensorimpl(tensor, size, stride, offset);
}

Tensor toy_reshape_alias(const Tensor& tensor, IntArrayRef size, IntArrayRef stride) {
  return native::_reshape_alias(tensor, size, stride);
}

Tensor& toy_set_storage(Tensor& tensor, Storage storage, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  return native::set_storage_cpu_(tensor, storage, offset, size, stride);
}

void on_the_toy(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  bool here = false, elsewhere = false;
  auto look = [&](const Tensor& tensor) {
    if (!tensor.defined()) return;
    if (tensor.device().is_cpu()) {
      elsewhere |= tensor.dim() > 0;  // a number alone may come from the CPU
    } else {
      checked(tensor.scalar_type(), schema.name());
      here = true;
    }
  };
  for (const auto& argument : torch::jit::last(stack, schema.arguments().size())) {
    if (argument.isTensor()) look(argument.toTensor());
    if (argument.isTensorList()) for (const auto& tensor : argument.toTensorVector()) look(tensor);
  }  // lists of optional tensors are indices, which may be the CPU's everywhere
  TORCH_CHECK(!(here && elsewhere), "tensors of the toy and of the CPU in one call: ", schema.name());
  native::cpu_fallback(op, stack);
}

}  // namespace

REGISTER_ALLOCATOR(DeviceType::PrivateUse1, &allocator);
namespace at::detail {
C10_REGISTER_GUARD_IMPL(PrivateUse1, ToyGuard);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_toy>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &toy_empty);
  m.impl("empty_strided", &toy_empty_strided);
  m.impl("_copy_from", &toy_copy_from);
  m.impl("_copy_from_and_resize", &toy_copy_from_and_resize);
  m.impl("_local_scalar_dense", &toy_local_scalar);
  m.impl("as_strided", &toy_as_strided);
  m.impl("view", &toy_view);
  m.impl("_reshape_alias", &toy_reshape_alias);
  m.impl("resize_", &toy_resize);
  m.impl("set_.source_Storage_storage_offset", &toy_set_storage);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static ToyHooks hooks;
  RegisterPrivateUse1HooksInterface(&hooks);
  m.def("in_use", [] { return in_use.load(); });
  m.def("peak", [] { return peak.load(); });
  m.def("reset_peak", [] { peak = in_use.load(); });
}
