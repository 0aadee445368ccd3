//! Opens the device that the command line names. There is no other device to fall back to: an error ends the process.

use candle_core::Device;
use protocol::worker::Backend;

use crate::error::LoadError;

/// Whether this build can compute on the backend at all.
pub fn is_compiled_in(backend: Backend) -> bool {
    match backend {
        Backend::Cpu => true,
        Backend::Cuda => cfg!(feature = "cuda"),
        Backend::Metal => cfg!(feature = "metal"),
    }
}

/// Opens device number `gpu` of the backend; the CPU has no number.
pub fn open(backend: Backend, gpu: u32) -> Result<Device, LoadError> {
    if !is_compiled_in(backend) {
        return Err(LoadError::BackendNotAvailable(backend));
    }
    // The drivers' loaders panic where a library is missing; that too is a failed device and no bug of ours.
    let opened = std::panic::catch_unwind(|| match backend {
        Backend::Cpu => Ok(Device::Cpu),
        Backend::Cuda => Device::new_cuda(gpu as usize),
        Backend::Metal => Device::new_metal(gpu as usize),
    });
    let message = match opened {
        Ok(Ok(device)) => return Ok(device),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the driver's library could not be loaded".to_owned(),
    };
    Err(LoadError::DeviceFailed { backend, gpu, message })
}
