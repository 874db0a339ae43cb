//! Every kernel is valid WGSL and translates to the languages of every API. Needs no device.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

fn validated(name: &str, text: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    // No capabilities: nothing beyond what every adapter has. Variants for other adapters are files of their own.
    let capabilities = match name {
        "gemm_subgroups" => Capabilities::SUBGROUP,
        "gemm_cooperative" => Capabilities::COOPERATIVE_MATRIX,
        _ => Capabilities::empty(),
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::SHUFFLE)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    (module, info)
}

#[test]
fn every_kernel_is_valid_and_has_its_entry_points() {
    for shader in lowrank_shaders::ALL {
        let (module, _) = validated(shader.name, shader.text);
        let entries: Vec<_> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(entries, shader.entries, "{}", shader.name);
    }
}

#[test]
fn bindings_stay_within_the_default_limits() {
    for shader in lowrank_shaders::ALL {
        let (module, _) = validated(shader.name, shader.text);
        let storage = module
            .global_variables
            .iter()
            .filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. }))
            .count();
        // Those that take many tensors at once have a twin within the limit.
        let most = if shader.name.ends_with("_many") { 25 } else { 8 };
        assert!(storage <= most, "{}: {storage} storage buffers", shader.name);
        let params = module
            .global_variables
            .iter()
            .find(|(_, v)| v.space == naga::AddressSpace::Uniform)
            .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()));
        assert!(params.is_some_and(|size| size <= 256), "{}: parameters of {params:?} bytes", shader.name);
    }
}

#[test]
fn every_kernel_translates_to_spirv_msl_and_hlsl() {
    for shader in lowrank_shaders::ALL {
        let (module, info) = validated(shader.name, shader.text);
        // The wide tile of products too: 128 × 128 elements, 8 × 8 per invocation.
        let has_tiles = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some("BM"));
        let tiles: &[[(&str, f64); 3]] = if has_tiles {
            &[[("BM", 64.0), ("BN", 64.0), ("T", 4.0)], [("BM", 128.0), ("BN", 128.0), ("T", 8.0)]]
        } else {
            &[]
        };
        let none = naga::back::PipelineConstants::default();
        let sets: Vec<_> = if tiles.is_empty() {
            vec![none]
        } else {
            tiles.iter().map(|t| t.iter().map(|(name, v)| (name.to_string(), *v)).collect()).collect()
        };
        for (entry, constants) in shader.entries.iter().flat_map(|e| sets.iter().map(move |s| (e, s))) {
            let stage = (naga::ShaderStage::Compute, *entry);
            let (module, info) =
                naga::back::pipeline_constants::process_overrides(&module, &info, Some(stage), constants)
                    .unwrap_or_else(|e| panic!("{}/{entry}: {e}", shader.name));
            let name = format!("{}/{entry}", shader.name);

            let options = spv::PipelineOptions { shader_stage: stage.0, entry_point: (*entry).to_string() };
            let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&options))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(words[0], 0x0723_0203, "{name}: the magic number of SPIR-V");

            // Subgroups need Metal 2.1 and matrix units 2.3; HLSL has none.
            let cooperative = shader.name == "gemm_cooperative";
            let lang_version = if cooperative { (2, 3) } else { (2, 1) };
            let options = msl::Options { lang_version, fake_missing_bindings: true, ..msl::Options::default() };
            let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(text.contains("kernel void"), "{name}");

            if cooperative {
                continue;
            }
            let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(text.contains("numthreads"), "{name}");
        }
    }
}
