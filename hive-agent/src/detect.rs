//! What this machine can compute on. Nothing here links a GPU library: NVIDIA's own tool is asked.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::hive::{BackendReport, Detection};
use protocol::worker::Backend;
use sysinfo::System;
use tokio::process::Command;

/// A tool that does not answer in this time is taken for broken.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// One GPU as nvidia-smi sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory_total_bytes: u64,
    /// Bytes of it that are free.
    pub memory_free_bytes: u64,
}

/// Memory within the limits set for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes free for use.
    pub available_bytes: u64,
}

/// Looks at the machine, and at what this worker program was built for.
pub async fn detect(worker_binary: &Path) -> Detection {
    let (cuda, build) = tokio::join!(cuda_devices(), worker_backends(worker_binary));
    let memory = memory().unwrap_or(Memory { total_bytes: 0, available_bytes: 0 });
    Detection {
        platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu_name(),
        cores: cores(),
        cpu_features: cpu_features(),
        memory_total_bytes: memory.total_bytes,
        memory_available_bytes: memory.available_bytes,
        backends: reports(cuda, &build, memory),
    }
}

/// The backends that a detection found usable, each once.
pub fn usable_backends(detection: &Detection) -> Vec<Backend> {
    let usable = |backend: &Backend| {
        detection.backends.iter().any(|report| report.backend == *backend && report.available)
    };
    [Backend::Cpu, Backend::Cuda, Backend::Metal].into_iter().filter(usable).collect()
}

/// Memory of the machine or, where that is less, of the control group that this process is in; `None` where the system
/// does not tell.
pub fn memory() -> Option<Memory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let machine = Memory { total_bytes: system.total_memory(), available_bytes: system.available_memory() };
    Some(match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 => Memory {
            total_bytes: machine.total_bytes.min(limits.total_memory),
            available_bytes: machine.available_bytes.min(limits.free_memory),
        },
        _ => machine,
    })
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

fn cpu_name() -> String {
    let system = System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let brand = system.ok().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

macro_rules! features_present {
    ($detected:ident: $($name:tt)*) => {
        [$(($name, std::arch::$detected!($name))),*]
            .into_iter()
            .filter_map(|(name, present)| present.then(|| name.to_owned()))
            .collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let mut features: Vec<String> = features_present!(is_x86_feature_detected:
        "sse4.2" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    features.extend(amx_features());
    features
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<String> {
    features_present!(is_aarch64_feature_detected: "neon" "dotprod" "fp16" "bf16" "i8mm" "sve")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// The compiler cannot ask for these yet; Linux lists what the processor claims.
#[cfg(target_arch = "x86_64")]
fn amx_features() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let amx = flags.split_whitespace().filter(|flag| flag.starts_with("amx_"));
    amx.map(|flag| flag.replace('_', "-")).collect()
}

/// What the worker program can do, or why nobody knows.
type Build = Result<Vec<Backend>, String>;

/// Asks the worker program which backends it was built with.
async fn worker_backends(binary: &Path) -> Build {
    if !binary.is_file() {
        return Err(format!("there is no worker program at {}", binary.display()));
    }
    let mut command = Command::new(binary);
    command.arg("backends");
    let output = run(command).await.map_err(|error| format!("{} does not run: {error}", binary.display()))?;
    Ok(output.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// All NVIDIA GPUs, or why there are none.
pub async fn cuda_devices() -> Result<Vec<CudaDevice>, String> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]);
    match run(command).await {
        Ok(output) => Ok(output.lines().filter_map(parse_cuda_line).collect()),
        Err(error) if PathBuf::from("/proc/driver/nvidia").exists() => {
            Err(format!("an NVIDIA driver is loaded, but nvidia-smi does not run: {error}"))
        }
        Err(_) => Err("no NVIDIA driver on this machine".to_owned()),
    }
}

/// Reads a line such as "0, NVIDIA H200, 143771, 143155"; sizes are in MiB.
fn parse_cuda_line(line: &str) -> Option<CudaDevice> {
    let mut fields = line.split(',').map(str::trim);
    Some(CudaDevice {
        index: fields.next()?.parse().ok()?,
        name: fields.next()?.to_owned(),
        memory_total_bytes: fields.next()?.parse::<u64>().ok()? << 20,
        memory_free_bytes: fields.next()?.parse::<u64>().ok()? << 20,
    })
}

async fn run(mut command: Command) -> Result<String, String> {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TOOL_TIMEOUT, command.output())
        .await
        .map_err(|_| format!("no answer within {} s", TOOL_TIMEOUT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, said.lines().last().unwrap_or("it said nothing")))
}

fn reports(cuda: Result<Vec<CudaDevice>, String>, build: &Build, memory: Memory) -> Vec<BackendReport> {
    let report = |backend: Backend, device: Option<u32>, name: &str, memory_total_bytes: Option<u64>| {
        let lack = match build {
            Ok(backends) if backends.contains(&backend) => None,
            Ok(_) => Some(format!("the worker program here was built without {backend}")),
            Err(why) => Some(why.clone()),
        };
        let detail = lack.as_ref().map_or_else(|| name.to_owned(), |lack| format!("{name}; {lack}"));
        BackendReport { backend, available: lack.is_none(), device, detail, memory_total_bytes }
    };
    let absent = |backend: Backend, why: String| BackendReport {
        backend,
        available: false,
        device: None,
        detail: why,
        memory_total_bytes: None,
    };
    let mut reports = vec![report(Backend::Cpu, None, &cpu_name(), None)];
    match cuda {
        Ok(devices) if devices.is_empty() => {
            reports.push(absent(Backend::Cuda, "the NVIDIA driver shows no GPU".to_owned()));
        }
        Ok(devices) => reports.extend(devices.iter().map(|device| {
            report(Backend::Cuda, Some(device.index), &device.name, Some(device.memory_total_bytes))
        })),
        Err(why) => reports.push(absent(Backend::Cuda, why)),
    }
    reports.push(if cfg!(target_os = "macos") {
        report(Backend::Metal, Some(0), "the GPU of this Mac, sharing its memory", Some(memory.total_bytes))
    } else {
        absent(Backend::Metal, "Metal is there on macOS only".to_owned())
    });
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory { total_bytes: 8 << 30, available_bytes: 4 << 30 };

    fn gpu() -> CudaDevice {
        parse_cuda_line("1, NVIDIA H200, 143771, 143155").unwrap()
    }

    #[test]
    fn a_line_of_nvidia_smi_is_read() {
        assert_eq!((gpu().index, gpu().name.as_str()), (1, "NVIDIA H200"));
        assert_eq!(gpu().memory_free_bytes, 143_155 << 20);
        assert_eq!(parse_cuda_line("No devices were found"), None);
    }

    #[test]
    fn hardware_alone_makes_no_backend_and_the_reason_is_told() {
        let reports = reports(Ok(vec![gpu()]), &Ok(vec![Backend::Cpu]), MEMORY);
        let of = |backend| reports.iter().find(|report| report.backend == backend).unwrap();
        assert!(of(Backend::Cpu).available);
        assert!(!of(Backend::Cuda).available && of(Backend::Cuda).detail.contains("built without cuda"));
    }

    #[test]
    fn no_driver_is_said_in_words() {
        let reports =
            reports(Err("no NVIDIA driver on this machine".to_owned()), &Err("gone".to_owned()), MEMORY);
        assert!(reports.iter().all(|report| !report.available));
        assert!(reports.iter().any(|report| report.detail.contains("no NVIDIA driver")));
    }

    #[tokio::test]
    async fn this_machine_has_cores_memory_and_a_name() {
        let detection = detect(Path::new("/nowhere/worker-rbee")).await;
        assert!(detection.cores >= 1 && !detection.cpu.is_empty());
        assert!(detection.memory_available_bytes > 0);
        assert!(detection.memory_available_bytes <= detection.memory_total_bytes);
        assert_eq!(usable_backends(&detection), []);
    }
}
