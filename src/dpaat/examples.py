"""What `--help` of the commands shows at its end."""

TRAIN_EXAMPLES = """examples:
  dpaat train --data ham10000:DIR --image-size 64 --model resnet18 --method dpaat --out runs/ham
  dpaat train --data folder:photos --method pgd --eps 4/255 --clean-weight 0.5 --out runs/pgd
  dpaat train --config runs/ham/config.yaml --seed 1 --out runs/ham-seed1
  dpaat train --resume --out runs/ham"""
EVALUATE_EXAMPLES = """examples:
  dpaat evaluate runs/ham                                        PGD-20 at 1, 2, 4 and 8/255
  dpaat evaluate runs/ham --suite standard                       the ensemble of attacks; run it again if interrupted
  dpaat evaluate runs/ham --suite standard,masking,corruptions --max-samples 200 --steps square=1000
  dpaat evaluate runs/ham --attack fgsm,apgd-dlr --steps 50 --eps 2/255,4/255
  dpaat evaluate runs/ham --attack apgd-ce --ensemble apgd-t,square      the second on what the first leaves standing
  dpaat evaluate runs/ham --attack transfer --source runs/standard
  dpaat evaluate runs/ham --data folder:other-clinic --split all
  dpaat evaluate --model resnet18 --weights mine.pth --data folder:images --image-size 64 --out results/mine"""
EXPLAIN_EXAMPLES = """examples:
  dpaat explain runs/ham                                         100 images, clean and under PGD-20 at 4/255
  dpaat explain runs/ham --maps grad-cam,input-gradient --eps 2/255,8/255 --max-samples 300
  dpaat explain runs/ham --maps grad-cam --layer layer3
  dpaat explain runs/ham --data csv:other-clinic.csv --split all
  dpaat list maps"""
COMPARE_EXAMPLES = """examples:
  dpaat compare runs/standard runs/pgd runs/dpaat
  dpaat compare runs/*-fold? --out comparison.json               folds and seeds of one method are pooled"""
BENCHMARK_EXAMPLES = """examples:
  dpaat benchmark smoke                                          run it again to go on, or to retry what failed
  dpaat benchmark quick --data folder:photos                     a first look at your own images
  dpaat benchmark grid.yaml --data ham10000:DIR --workers 2 --out results/ham
  dpaat benchmark grid.yaml --only 'dpaat-*-f1-s0'               one row again
  dpaat benchmark grid.yaml --known docs/results/ham10000-32px   with the cells of a published benchmark
  dpaat benchmark grid.yaml --known docs/results/ham10000-32px --summary-only --reference pgd-1
  dpaat benchmark grid.yaml --dry-run"""
PROFILE_EXAMPLES = """examples:
  dpaat profile --data ham10000:DIR --image-size 64 --model resnet18
  dpaat profile --config runs/ham/config.yaml --batch-size 256 --out profile.json"""
EXPORT_EXAMPLES = """examples:
  dpaat export runs/ham --out export                             needs pip install 'dpaat[export]'"""
PREDICT_EXAMPLES = """examples:
  dpaat predict runs/ham photo1.jpg photo2.jpg --out predictions.csv
  dpaat predict runs/ham folder-of-photos --out predictions.csv"""
REPORT_EXAMPLES = """examples:
  dpaat report runs/standard runs/pgd runs/dpaat --out report.html
  dpaat report runs/ham --no-images                               to be shown where the images may not be
  dpaat report runs/ham --format md --out README.md               a model card for a model hub"""
CHECK_EXAMPLES = """examples:
  dpaat data check ham10000:DIR
  dpaat data check csv:images.csv --fold 2/5"""
MAIN_EXAMPLES = """examples:
  dpaat quickstart                       everything once, on embedded synthetic images
  dpaat train --data ham10000:DIR --out runs/ham
  dpaat evaluate runs/ham --eps 2/255,4/255,8/255
  dpaat report runs/ham --out report.html
  dpaat train --help                     all options of a command"""
